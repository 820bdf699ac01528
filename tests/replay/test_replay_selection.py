"""Selections against naive references."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.replay.mixing import repeated
from cl_plugins.replay.selection import by_loss, class_balanced, herding, k_center, random_order


features = st.integers(0, 2**31).flatmap(
    lambda seed: st.tuples(st.integers(1, 14), st.integers(1, 5)).map(
        lambda shape: np.random.default_rng(seed).normal(size=shape)
    )
)
how_many = st.integers(0, 16)


def unit(rows):
    return [row / np.linalg.norm(row) for row in rows]


def earliest(numbers, cost):
    """Of samples whose costs differ by rounding only, the first."""
    costs = [cost(i) for i in numbers]
    return next(i for i, own in zip(numbers, costs, strict=True) if own <= min(costs) + 1e-9)


def naive_herding(rows, count):
    rows = unit(rows)
    mean, order = sum(rows) / len(rows), []
    while len(order) < min(count, len(rows)):

        def distance(i):
            chosen = [rows[j] for j in [*order, i]]
            return np.linalg.norm(mean - sum(chosen) / len(chosen))

        left = [i for i in range(len(rows)) if i not in order]
        order.append(earliest(left, distance))
    return order


def naive_k_center(rows, count):
    rows = unit(rows)
    mean = sum(rows) / len(rows)
    order = [earliest(range(len(rows)), lambda i: np.linalg.norm(rows[i] - mean))]
    while len(order) < min(count, len(rows)):
        left = [i for i in range(len(rows)) if i not in order]
        order.append(earliest(left, lambda i: -min(np.linalg.norm(rows[i] - rows[j]) for j in order)))
    return order[:count]


@given(features.filter(lambda f: f.shape[1] > 1), how_many)
def test_herding(rows, count):
    assert herding(rows, count) == naive_herding(rows, count)


@given(features.filter(lambda f: f.shape[1] > 1), how_many)
def test_k_center(rows, count):
    assert k_center(rows, count) == naive_k_center(rows, count)


@given(features, how_many)
@pytest.mark.parametrize("select", [herding, k_center])
def test_equal_features_are_each_taken_once(select, rows, count):
    """Of width 1 all are 1 or -1: ties everywhere."""
    order = select(rows, count)
    assert len(set(order)) == len(order) == min(count, len(rows))
    assert order == select(rows, len(rows))[:count]  # a prefix is a selection of its own


@given(st.floats(0, 2 * np.pi), st.permutations(range(4)), st.sampled_from([1, 2, 4]), st.floats(0.1, 10))
@pytest.mark.parametrize("select", [herding, k_center])
def test_of_equally_good_samples_the_earliest_is_taken(select, angle, places, used, length):
    """Corners of a square or both ends of a line, turned: all are equally far from the mean but for rounding."""
    corners = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=float)[:used] * length
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mixed = np.array([place for place in places if place < used])
    order = select((corners @ turn.T)[mixed], used)
    assert order[0] == 0
    opposite = {0: 1, 1: 0, 2: 3, 3: 2}
    if used > 1:  # herding brings the mean back at once, k_center goes as far away as it can
        assert mixed[order[1]] == opposite[mixed[0]]
    if used > 2:  # the last two are equally good
        assert order[2] < order[3]


def test_k_center_covers_and_herding_stays_in_the_middle():
    angles = np.deg2rad([0, 1, 2, 3, 4, 90])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert 5 in k_center(rows, 2)
    assert 5 not in herding(rows, 1)


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(0, 40), st.integers(0, 99))
def test_class_balanced(labels, count, seed):
    keys = list(np.random.default_rng(seed).random(len(labels)))
    order = class_balanced(labels, keys, count)
    assert len(set(order)) == len(order) == min(count, len(labels))
    taken, there = Counter(labels[i] for i in order), Counter(labels)
    hungry = [taken[c] for c in there if taken[c] < there[c]]
    assert not hungry or max(taken.values(), default=0) - min(hungry) <= 1
    for c in there:  # within a class by the keys
        own = [keys[i] for i in order if labels[i] == c]
        assert own == sorted(own)
        assert not own or own[-1] <= min(
            (keys[i] for i in range(len(labels)) if labels[i] == c and i not in order), default=2
        )


@given(st.lists(st.floats(0, 9), max_size=20), st.integers(0, 25))
def test_by_loss_and_random(values, count):
    low, high = by_loss(values, count, highest=False), by_loss(values, count, highest=True)
    assert [values[i] for i in low] == sorted(values)[:count]
    assert [values[i] for i in high] == sorted(values, reverse=True)[:count]
    assert random_order(values, count) == low


@given(st.integers(0, 30), st.integers(1, 60), st.floats(0.05, 0.95), st.integers(0, 9))
def test_a_ratio_repeats_evenly(count, new, ratio, seed):
    again = repeated(count, new, ratio, seed)
    if not count:
        assert again == []
        return
    assert len(again) == round(new * ratio / (1 - ratio))
    often = Counter(again)
    times = [often[i] for i in range(count)]
    assert max(times) - min(times) <= 1
    assert again == repeated(count, new, ratio, seed)
