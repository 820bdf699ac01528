"""Drawing memory batches."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.contract.task import Batch, TaskContext
from cl_plugins.replay.memory import Memory, draw


def step_of(layout, count, step=3, seed=1):
    """All draws of one optimizer step: micro-batches, processes, samples per batch."""
    micros, processes, size = layout
    return [
        i
        for micro in range(micros)
        for rank in range(processes)
        for i in draw(count, size, seed=seed, step=step, first=(micro * processes + rank) * size, purpose="x")
    ]


@given(st.integers(1, 30))
def test_a_step_sees_the_same_samples_in_every_batch_layout(count):
    layouts = [(1, 1, 8), (8, 1, 1), (2, 1, 4), (1, 2, 4), (2, 2, 2)]
    assert len({tuple(step_of(layout, count)) for layout in layouts}) == 1


@given(st.integers(1, 12), st.integers(1, 40))
def test_no_sample_comes_again_before_all_have_been_seen(count, size):
    often = Counter(draw(count, size, seed=0, step=1, first=0, purpose="x"))
    times = [often[i] for i in range(count)]
    assert max(times) - min(times) <= 1


def test_every_lap_of_a_step_has_an_order_of_its_own():
    laps = [draw(20, 20, seed=0, step=1, first=20 * lap, purpose="x") for lap in range(3)]
    assert all(sorted(lap) == list(range(20)) for lap in laps)
    assert len(set(map(tuple, laps))) == 3
    assert draw(20, 60, seed=0, step=1, first=0, purpose="x") == [*laps[0], *laps[1], *laps[2]]


def test_a_draw_depends_on_seed_step_place_and_purpose_and_on_nothing_else():
    base = {"seed": 1, "step": 1, "first": 0, "purpose": "x"}
    one = draw(50, 8, **base)
    assert draw(50, 8, **base) == one
    for change in ({"seed": 2}, {"step": 2}, {"first": 8}, {"purpose": "y"}):
        assert draw(50, 8, **{**base, **change}) != one


def test_all_samples_are_drawn_equally_often():
    often = Counter(i for step in range(2000) for i in draw(10, 3, seed=5, step=step, first=0, purpose="x"))
    statistic = sum((often[i] - 600) ** 2 / (600 * 0.7) for i in range(10))
    assert statistic < 27.9  # chi-squared, 9 degrees, p = 0.001


@pytest.mark.parametrize("layout", [([6],), ([4, 2],), ([3, 3],), ([5, 1],), ([2, 1], [2, 1]), ([1, 1, 1], [1, 1, 1])])
def test_a_smaller_last_micro_batch_repeats_no_sample(layout):
    """What a step of six new samples draws; each list is a process with its micro-batches."""
    found = {}
    for purpose in ("x", "y"):
        for rank, sizes in enumerate(layout):
            memory = Memory(None, None)
            memory.samples = tuple(range(10))
            context = TaskContext(None, 2, 1, None, None, rank=rank, world_size=len(layout))
            for step in (1, 2):
                for micro, size in enumerate(sizes):
                    batch = Batch({"labels": torch.zeros(size, 3)}, None, step, micro)
                    drawn = [memory.draw(context, batch, purpose) for _ in range(2)]
                    assert drawn[0] == drawn[1]
                    found.setdefault((purpose, step), []).extend(drawn[0])
    for (purpose, step), drawn in found.items():
        assert sorted(drawn) == sorted(draw(10, 6, seed=1, step=step, first=0, purpose=purpose))
        assert len(set(drawn)) == 6
