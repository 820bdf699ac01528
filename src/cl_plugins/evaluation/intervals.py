"""95 % confidence intervals: Wilson's for rates, a seeded percentile bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 1000


def wilson(successes: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a rate (`scipy.stats.binomtest`).

    With p = successes / n and z the normal quantile at (1 + level) / 2, the bounds are
    ``(p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` (Wilson 1927, JASA 22:209). Unlike p ± z·se it stays
    inside 0-100 and has a width at 0 and n successes.

    Args:
        successes: Number of items that are right.
        n: Number of items.
        level: Confidence level.

    Returns:
        Low and high, 0-100.

    Raises:
        ValueError: n is not positive or successes lies outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n and n > 0, found successes={successes}, n={n}")
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(level, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def bootstrap(
    statistics: Sequence[Sequence[float]],
    value: Callable[[NDArray[Any]], float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile bootstrap over items of a value that depends on sums over items (Efron 1979).

    Items are drawn with replacement `resamples` times. Only the sums of their sufficient statistics are needed, so
    a resample costs one matrix product, for any value.

    Args:
        statistics: ``n`` rows of ``k`` numbers: the sufficient statistics of each item.
        value: From the ``k`` sums over a resample of n items to the value, 0-100.
        seed: Seed of the resampling; the same seed gives the same interval.
        resamples: Number of resamples.
        level: Confidence level.

    Returns:
        Low and high. In small samples a percentile interval need not contain the value itself.

    Raises:
        ValueError: There are no items.
    """
    import numpy as np

    table = np.asarray(statistics, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise ValueError(f"bootstrap needs n > 0 rows of statistics, found an array of shape {table.shape}")
    n = len(table)
    rng = np.random.default_rng(seed)
    values = [value(np.bincount(rng.integers(0, n, n), minlength=n) @ table) for _ in range(resamples)]
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Bootstrap interval of a mean of item scores.

    Args:
        values: Item scores, 0-100.
        seed: Seed of the resampling.
        resamples: Number of resamples.
    """
    n = len(values)
    return bootstrap([(v,) for v in values], lambda sums: float(sums[0]) / n, seed=seed, resamples=resamples)
