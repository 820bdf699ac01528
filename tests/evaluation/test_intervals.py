from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.evaluation.intervals import bootstrap, bootstrap_mean, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # By hand with z² = 3.841459: 0 of n gives (0, z²/(n+z²)), n of n its mirror image.
        (0, 10, 0.0, 27.7533),
        (10, 10, 72.2467, 100.0),
        (0, 1, 0.0, 79.3451),
        # p = .8, n = 10: centre (.8 + .192073)/1.384146, half width (1.959964·sqrt(.016 + .00960365))/1.384146.
        (8, 10, 49.0162, 94.3318),
        # p = .5: 50 ± 100·z/(2·sqrt(n + z²)).
        (50, 100, 40.3832, 59.6168),
    ],
)
def test_wilson_against_values_by_hand(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_follows_the_formula():
    z = NormalDist().inv_cdf(0.975)
    for n in (1, 2, 7, 50, 1234):
        for successes in {0, 1, n // 3, n - 1, n}:
            p = successes / n
            centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
            ends = [100 * (centre + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
            assert wilson(successes, n) == pytest.approx(ends, abs=1e-6)


@pytest.mark.parametrize("n", range(1, 200))
def test_wilson_is_exact_at_the_ends(n):
    assert wilson(0, n)[0] == 0.0
    assert wilson(n, n)[1] == 100.0


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_stays_in_range_and_mirrors(pair):
    successes, n = pair
    low, high = wilson(successes, n)
    assert 0 <= low <= 100 * successes / n <= high <= 100
    assert low < high
    assert wilson(n - successes, n) == pytest.approx((100 - high, 100 - low))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


def test_bootstrap_is_determined_by_its_seed_and_leaves_the_global_generator_alone():
    values = [float(v) for v in range(0, 101, 5)]
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    first = bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) == first
    assert bootstrap_mean(values, seed=2) != first
    assert np.random.get_state()[1].tolist() == before


def test_bootstrap_of_a_mean_agrees_with_theory():
    values = [0.0] * 200 + [100.0] * 200
    low, high = bootstrap_mean(values, resamples=4000)
    # Standard error 50/sqrt(400) = 2.5 points.
    assert low == pytest.approx(50 - 1.96 * 2.5, abs=0.6)
    assert high == pytest.approx(50 + 1.96 * 2.5, abs=0.6)


def test_bootstrap_draws_whole_items():
    # Both columns of an item are resampled together, so their ratio is constant.
    assert bootstrap([(v, 2 * v) for v in (1, 2, 5)], lambda sums: 100 * sums[0] / sums[1]) == (50.0, 50.0)


def test_bootstrap_of_one_item_has_no_width_and_of_none_is_refused():
    assert bootstrap_mean([40.0]) == (40.0, 40.0)
    with pytest.raises(ValueError, match="n > 0"):
        bootstrap_mean([])
