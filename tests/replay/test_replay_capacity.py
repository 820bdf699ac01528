"""Capacities and keys: pure functions with properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.config import ReplayConfig
from cl_plugins.replay.capacity import balanced, sample_key, share_of_new, smallest, surviving


counts = st.lists(st.integers(0, 60), max_size=8)


@given(st.integers(0, 300), counts)
def test_balanced_shares(capacity, available):
    shares = balanced(capacity, available)
    assert sum(shares) == min(capacity, sum(available))
    assert all(0 <= share <= most for share, most in zip(shares, available, strict=True))
    hungry = [share for share, most in zip(shares, available, strict=True) if share < most]
    assert not hungry or max(shares) - min(hungry) <= 1  # nobody has more than a task that could take more, but for 1


@given(st.integers(1, 200), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_what_a_task_is_asked_for_is_what_it_keeps(capacity, sizes):
    """The share is computed when a task ends, and again when the buffer is written from what it left."""
    config = ReplayConfig(capacity_total=capacity)
    held: dict[str, int] = {}
    for number, size in enumerate(sizes):
        new = share_of_new(config, held, size)
        keys = {**{name: [0.5] * n for name, n in held.items()}, f"t{number}": [0.5] * new}
        kept = surviving(config, keys)
        assert len(kept[f"t{number}"]) == new
        held = {name: len(positions) for name, positions in kept.items()}
        assert sum(held.values()) <= capacity


@given(st.integers(0, 40), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_the_smallest_keys_stay_in_order(capacity, sizes):
    keys = {f"t{i}": [sample_key(1, f"t{i}", row) for row in range(size)] for i, size in enumerate(sizes)}
    kept = smallest(capacity, keys)
    assert sum(map(len, kept.values())) == min(capacity, sum(sizes))
    inside = [keys[name][i] for name, positions in kept.items() for i in positions]
    outside = [key for name, own in keys.items() for i, key in enumerate(own) if i not in kept[name]]
    assert not inside or not outside or max(inside) < min(outside)
    assert all(positions == sorted(positions) for positions in kept.values())


def test_a_reservoir_filled_task_by_task_is_the_reservoir_of_all():
    """Whatever is thrown away on the way, the end is as if all samples had been seen at once."""
    sizes = {"a": 50, "b": 7, "c": 90}
    keys = {name: [sample_key(3, name, row) for row in range(n)] for name, n in sizes.items()}
    held: dict[str, list[float]] = {}
    for name, own in keys.items():
        both = {**held, name: own}
        kept = smallest(12, both)
        held = {n: [both[n][i] for i in kept[n]] for n in both}
    at_once = smallest(12, keys)
    assert held == {name: [keys[name][i] for i in at_once[name]] for name in keys}


def test_a_reservoir_is_uniform_over_all_samples():
    """Over 3,000 seeds every one of 20 samples of three tasks is kept equally often (chi-squared, 19 degrees)."""
    sizes, capacity, seeds = {"a": 3, "b": 12, "c": 5}, 5, 3000
    seen = Counter()
    for seed in range(seeds):
        keys = {name: [sample_key(seed, name, row) for row in range(n)] for name, n in sizes.items()}
        seen.update((name, i) for name, positions in smallest(capacity, keys).items() for i in positions)
    expected = seeds * capacity / 20
    assert len(seen) == 20
    statistic = sum((count - expected) ** 2 / (expected * (1 - capacity / 20)) for count in seen.values())
    assert statistic < 43.8  # p = 0.001


def test_keys_are_uniform_and_depend_on_everything():
    keys = [sample_key(0, "t", row) for row in range(4000)]
    assert 0 <= min(keys) < 0.01
    assert 0.99 < max(keys) < 1
    assert sum(keys) / len(keys) == pytest.approx(0.5, abs=0.02)
    assert len({sample_key(0, "t", 1), sample_key(1, "t", 1), sample_key(0, "u", 1), sample_key(0, "t", 2)}) == 4
    assert sample_key(7, "one", 3) == 0.7228424650928461  # the same on every machine and version


def test_a_capacity_per_task_is_each_tasks_own():
    config = ReplayConfig(capacity_per_task=2)
    assert surviving(config, {"a": [0.1, 0.2, 0.3], "b": [0.5]}) == {"a": [0, 1], "b": [0]}
    assert share_of_new(config, {"a": 2}, 9) == 2
    assert share_of_new(config, {}, 1) == 1
