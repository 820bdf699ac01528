"""Grounding: boxes as text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ...base.errors import DataError, Problem
from ..items import Item, TaskScore, few, require_items
from .base import BaseScorer
from .baselines import best_constant, candidates


#: Corners (x1, y1, x2, y2) in any one unit, the first not below or right of the second.
Box = tuple[float, float, float, float]
_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*"
_BOX = re.compile(rf"\s*[\[(]?{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]?\s*\.?\s*")
THRESHOLD = 0.5


def parse_box(text: str) -> Box | None:
    """Read a box from an answer that is a box and nothing else: four numbers with commas, brackets or not.

    Args:
        text: The answer.

    Returns:
        The corners; None if it is no box. One without area (rounded numbers) is a box that overlaps nothing.
    """
    match = _BOX.fullmatch(text)
    if match is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    return (x1, y1, x2, y2) if x2 >= x1 and y2 >= y1 else None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0-1; does not depend on the unit."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    union = _area(one) + _area(other) - shared
    return shared / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


class BoxAccuracy(BaseScorer):
    """Share of items whose box overlaps the reference by more than one half (intersection over union).

    An answer that is no box is invalid and counts as wrong. ``extra``: ``invalid_rate``, ``mean_overlap`` (of the valid
    answers with their references, 0-100; None without valid answers), ``constant_baseline`` and ``constant_answer``, the
    best constant box among the `MAX_CANDIDATES` most frequent references.
    """

    name = "box_accuracy"
    version = 1
    summary = "four numbers whose box overlaps the reference by more than one half; in percent"
    reports = "invalid rate, mean overlap, best constant box"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        references = _references(items)
        boxes = [parse_box(item.prediction) for item in items]
        shares = [overlap(box, right) if box else None for box, right in zip(boxes, references, strict=True)]
        valid = [share for share in shares if share is not None]

        def value(answer: str) -> float:
            box = parse_box(answer)
            if box is None:
                return 0.0
            return 100 * sum(overlap(box, right) > THRESHOLD for right in references) / len(references)

        extra: dict[str, Any] = {
            "invalid_rate": 100 * (len(items) - len(valid)) / len(items),
            "mean_overlap": 100 * math.fsum(valid) / len(valid) if valid else None,
            **best_constant(candidates([item.reference for item in items]), value),
        }
        return self._rate([share is not None and share > THRESHOLD for share in shares], extra)


def _references(items: Sequence[Item]) -> list[Box]:
    found, problems = [], []
    for item in items:
        box = parse_box(item.reference)
        if box is None:
            fix = "A reference is [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2."
            problems.append(Problem(f"item {item.id!r}", f"the reference {item.reference!r} is not a box.", fix))
        else:
            found.append(box)
    if problems:
        raise DataError(few(problems))
    return found
