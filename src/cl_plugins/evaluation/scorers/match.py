"""Short answers: normalised exact match, and the reference at the beginning or anywhere in the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ..items import Item, TaskScore, require_items
from .base import BaseScorer, SegmentingScorer
from .baselines import best_constant, candidates
from .segmentation import Segmentation
from .text import contains_words, normalise, starts_with_words


class ExactMatch(BaseScorer):
    """Share of items whose normalised prediction equals the normalised reference (`normalise`).

    ``extra``: ``constant_baseline`` and ``constant_answer``, the best constant answer among all distinct references.
    """

    name = "exact_match"
    version = 2
    summary = "normalised prediction equals normalised reference; in percent"
    reports = "best constant answer"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        references = [normalise(item.reference) for item in items]
        hits = [normalise(item.prediction) == right for item, right in zip(items, references, strict=True)]
        counts = Counter(references)
        answers = candidates([item.reference for item in items], limit=None)
        extra = best_constant(answers, lambda answer: 100 * counts[normalise(answer)] / len(items))
        return self._rate(hits, extra)


class _Inside(SegmentingScorer):
    """Share of items whose normalised reference is in the normalised prediction, where ``_holds`` looks for it."""

    _holds: Callable[[str, str, Segmentation], bool]

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        way, key = self._segmentation(items)
        references = [normalise(item.reference) for item in items]
        hits = [
            self._holds(normalise(item.prediction), right, way) for item, right in zip(items, references, strict=True)
        ]
        counts = Counter(references)

        def value(answer: str) -> float:
            text = normalise(answer)
            right = sum(count for reference, count in counts.items() if self._holds(text, reference, way))
            return 100 * right / len(items)

        extra = best_constant(candidates([item.reference for item in items]), value)
        return self._rate(hits, extra, key)


class StartsWith(_Inside):
    """Share of items whose normalised prediction begins with the normalised reference, as whole words.

    The rule for closed questions (yes or no): text after the answer is ignored, so "Yes, in the left lung" is
    right and "no, yes" is not. ``extra``: ``constant_baseline`` and ``constant_answer``, the best constant answer
    among the `MAX_CANDIDATES` most frequent references.
    """

    name = "starts_with"
    version = 3
    summary = "prediction begins with the normalised reference, as whole words; in percent"
    reports = "best constant answer"
    _holds = staticmethod(starts_with_words)


class Contains(_Inside):
    """Share of items whose normalised reference occurs in the normalised prediction as whole words.

    A generous rule: "no, yes" contains both answers. ``extra``: ``constant_baseline`` and ``constant_answer``, the
    best constant answer among the `MAX_CANDIDATES` most frequent references.
    """

    name = "contains"
    version = 3
    summary = "normalised reference occurs in the prediction as whole words; in percent"
    reports = "best constant answer"
    _holds = staticmethod(contains_words)
