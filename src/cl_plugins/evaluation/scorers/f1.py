"""Free answers: token F1."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from ..items import Item, TaskScore, require_items
from .base import SegmentingScorer
from .baselines import best_constant, candidates
from .segmentation import Segmentation
from .text import tokens


def clipped_f1(prediction: Counter[str], reference: Counter[str]) -> float:
    """F1 of two bags of tokens, 0-1.

    The overlap counts a token at most as often as both bags hold it (clipped), so F1 = 2·overlap / (|p| + |r|).
    Repeating a right word does not help. Two empty bags agree (1).
    """
    size = prediction.total() + reference.total()
    if not size:
        return 1.0
    small, large = (prediction, reference) if len(prediction) < len(reference) else (reference, prediction)
    overlap = sum(min(count, large[token]) for token, count in small.items() if token in large)
    return 2 * overlap / size


class TokenF1(SegmentingScorer):
    """Mean over items of the clipped multiset F1 of tokens (`clipped_f1`), in percent.

    Tokens are words, and single characters where the references are written without spaces (`segmentation`).
    This is the mean of the items' F1, not the F1 of mean precision and recall. ``extra``: ``constant_baseline`` and
    ``constant_answer``, the best constant answer among the `MAX_CANDIDATES` most frequent references.
    """

    name = "token_f1"
    version = 3
    summary = "clipped multiset F1 of tokens, mean over items; in percent"
    reports = "best constant answer"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        way, key = self._segmentation(items)
        references = [Counter(tokens(item.reference, way)) for item in items]
        values = [
            100 * clipped_f1(Counter(tokens(item.prediction, way)), right)
            for item, right in zip(items, references, strict=True)
        ]
        extra = best_constant(candidates([item.reference for item in items]), _constant_value(references, way))
        return self._mean(values, extra, seed, key)


def _constant_value(references: Sequence[Counter[str]], way: Segmentation) -> Callable[[str], float]:
    """The mean F1 of a constant answer against all references, 0-100, looking only where tokens are shared."""
    sizes = [bag.total() for bag in references]
    holders: dict[str, list[tuple[int, int]]] = {}
    for index, bag in enumerate(references):
        for token, count in bag.items():
            holders.setdefault(token, []).append((index, count))

    def value(answer: str) -> float:
        bag = Counter(tokens(answer, way))
        size = bag.total()
        if not size:
            return 100 * sizes.count(0) / len(sizes)
        overlaps: Counter[int] = Counter()
        for token, count in bag.items():
            for index, held in holders.get(token, ()):
                overlaps[index] += min(count, held)
        f1 = math.fsum(2 * overlap / (size + sizes[index]) for index, overlap in overlaps.items())
        return 100 * f1 / len(sizes)

    return value
