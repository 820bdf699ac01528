"""Drawing memory batches."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.replay.memory import draw


def step_of(layout, count, step=3, seed=1):
    """All draws of one optimizer step: micro-batches, processes, samples per batch."""
    micros, processes, size = layout
    return [
        i
        for micro in range(micros)
        for rank in range(processes)
        for i in draw(count, size, seed=seed, step=step, slot=micro * processes + rank, purpose="x")
    ]


@given(st.integers(1, 30))
def test_a_step_sees_the_same_samples_in_every_batch_layout(count):
    layouts = [(1, 1, 8), (8, 1, 1), (2, 1, 4), (1, 2, 4), (2, 2, 2)]
    assert len({tuple(step_of(layout, count)) for layout in layouts}) == 1


@given(st.integers(1, 12), st.integers(1, 40))
def test_no_sample_comes_again_before_all_have_been_seen(count, size):
    often = Counter(draw(count, size, seed=0, step=1, slot=0, purpose="x"))
    times = [often[i] for i in range(count)]
    assert max(times) - min(times) <= 1


def test_every_lap_of_a_step_has_an_order_of_its_own():
    laps = [draw(20, 20, seed=0, step=1, slot=lap, purpose="x") for lap in range(3)]
    assert all(sorted(lap) == list(range(20)) for lap in laps)
    assert len(set(map(tuple, laps))) == 3
    assert draw(20, 60, seed=0, step=1, slot=0, purpose="x") == [*laps[0], *laps[1], *laps[2]]


def test_a_draw_depends_on_seed_step_slot_and_purpose_and_on_nothing_else():
    base = {"seed": 1, "step": 1, "slot": 0, "purpose": "x"}
    one = draw(50, 8, **base)
    assert draw(50, 8, **base) == one
    for change in ({"seed": 2}, {"step": 2}, {"slot": 1}, {"purpose": "y"}):
        assert draw(50, 8, **{**base, **change}) != one


def test_all_samples_are_drawn_equally_often():
    often = Counter(i for step in range(2000) for i in draw(10, 3, seed=5, step=step, slot=0, purpose="x"))
    statistic = sum((often[i] - 600) ** 2 / (600 * 0.7) for i in range(10))
    assert statistic < 27.9  # chi-squared, 9 degrees, p = 0.001
