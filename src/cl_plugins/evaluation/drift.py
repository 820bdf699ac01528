"""Drift of probes: how far the score on a test outside of the stream has moved since before the first task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..records.results import ZERO_SHOT, DriftPart, ProbePart
from .intervals import bootstrap
from .items import Item, TaskScore
from .scorers.base import Scorer


#: Probe -> what it has measured, as ``metrics.json`` holds it.
Drifts = dict[str, ProbePart]
#: Rows of numbers, one per item, before and after, and the value of their sums.
Sums = tuple[Sequence[Sequence[float]], Sequence[Sequence[float]], Callable[[Any], float]]
_EXACT = 1e-6  # points by which a score may differ from the mean of the scores of its items


def drift_of_items(scorer: Scorer, before: Sequence[Item], after: Sequence[Item], new: TaskScore) -> dict[str, Any]:
    """The difference of the scores of two answers to the same test set; see `drift`.

    Args:
        scorer: The scorer.
        before: The items with the zero-shot answers.
        after: The items with the later answers.
        new: Score of ``after``.
    """
    old = scorer.score(before)
    if [item.id for item in before] != [item.id for item in after]:
        return {"difference": new.score - old.score, "interval": None}
    statistics = getattr(scorer, "statistics", None)
    if statistics is None:
        return drift(old, new)
    first, value = statistics(before)
    return drift(old, new, (first, statistics(after)[0], value))


def drift(old: TaskScore, new: TaskScore, sums: Sums | None = None) -> dict[str, Any]:
    """The difference of two scores on the same items, with a paired bootstrap interval.

    Items are drawn with replacement, each with both of its answers; the interval is that of the percentiles of
    ``value(after) - value(before)`` over the resamples (`bootstrap`).

    Args:
        old: The zero-shot score, with the scores of its items.
        new: The later score, likewise.
        sums: Sufficient statistics of the items before and after, and the value of their sums; None where a score is the
            mean of the scores of its items.

    Returns:
        ``difference`` in points (``new - old``) and ``interval`` (low and high), which is None if the scorers or the
        numbers of items differ, or a score is neither a mean over items nor computed from sums over them.
    """
    found: dict[str, Any] = {"difference": new.score - old.score, "interval": None}
    n = len(new.items)
    if old.scorer != new.scorer or len(old.items) != n or not n:
        return found
    if sums is None:
        if any(abs(math.fsum(score.items) / n - score.score) > _EXACT for score in (old, new)):
            return found
        sums = [(v,) for v in old.items], [(v,) for v in new.items], lambda each: float(each[0]) / n
    first, second, value = sums
    width = len(first[0])
    rows = [(*a, *b) for a, b in zip(first, second, strict=True)]
    low, high = bootstrap(rows, lambda each: value(each[width:]) - value(each[:width]))
    return {**found, "interval": [low, high]}


def drifts_of(scores: Mapping[tuple[str, str], TaskScore]) -> Drifts:
    """The probes of a run, as ``metrics.json`` holds them.

    Args:
        scores: (row, probe) -> score, in the order of the rows.
    """
    found: Drifts = {}
    for probe in dict.fromkeys(name for _, name in scores):
        rows = {row: score for (row, name), score in scores.items() if name == probe}
        latest = list(rows.values())[-1]
        parts = {row: _part(score) for row, score in rows.items()}
        found[probe] = ProbePart(scorer=latest.scorer, n=latest.n, rows=parts)
    return found


def _part(score: TaskScore) -> DriftPart:
    told = score.extra.get("drift")
    told = told if isinstance(told, Mapping) else {}
    ends = told.get("interval")
    ends = [_points(end) for end in ends] if isinstance(ends, list | tuple) and len(ends) == 2 else []
    known = [end for end in ends if end is not None]
    return DriftPart(
        score=score.score,
        interval=list(score.interval),
        difference=_points(told.get("difference")),
        difference_interval=known if len(known) == 2 else None,
        max_items=score.max_items,
    )


def _points(value: Any) -> float | None:
    """A difference out of a file; None for what is none."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and -100 <= value <= 100 else None


def final_drift(probe: ProbePart) -> tuple[str, DriftPart] | None:
    """Name and part of the latest row that was measured after a training; None if there is none."""
    rows: Iterable[tuple[str, DriftPart]] = probe.rows.items()
    return next(((row, part) for row, part in reversed(list(rows)) if row != ZERO_SHOT), None)
