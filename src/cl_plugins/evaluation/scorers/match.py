"""Short answers: normalised exact match and containment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..items import Item, TaskScore, require_items
from .base import BaseScorer
from .baselines import best_constant, candidates
from .text import contains_words, normalise


class ExactMatch(BaseScorer):
    """Share of items whose normalised prediction equals the normalised reference (`normalise`).

    ``extra``: ``constant_baseline`` and ``constant_answer``, the best constant answer among all distinct references.
    """

    name = "exact_match"
    version = 1
    summary = "normalised prediction equals normalised reference; in percent"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        references = [normalise(item.reference) for item in items]
        hits = [normalise(item.prediction) == right for item, right in zip(items, references, strict=True)]
        counts = Counter(references)
        answers = candidates([item.reference for item in items], limit=None)
        extra = best_constant(answers, lambda answer: 100 * counts[normalise(answer)] / len(items))
        return self._rate(hits, extra)


class Contains(BaseScorer):
    """Share of items whose normalised reference occurs in the normalised prediction as whole words.

    A generous rule: "no, yes" contains both answers. ``extra``: ``constant_baseline`` and ``constant_answer``, the
    best constant answer among the `MAX_CANDIDATES` most frequent references.
    """

    name = "contains"
    version = 1
    summary = "normalised reference occurs in the prediction as whole words; in percent"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        references = [normalise(item.reference) for item in items]
        hits = [
            contains_words(normalise(item.prediction), right) for item, right in zip(items, references, strict=True)
        ]
        counts = Counter(references)

        def value(answer: str) -> float:
            text = normalise(answer)
            right = sum(count for reference, count in counts.items() if contains_words(text, reference))
            return 100 * right / len(items)

        return self._rate(hits, best_constant(candidates([item.reference for item in items]), value))
