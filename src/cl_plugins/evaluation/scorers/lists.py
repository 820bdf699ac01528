"""Answers that are lists ("Ohio, Texas"): set F1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from ..items import Item, TaskScore, require_items
from .base import SegmentingScorer
from .baselines import best_constant, candidates
from .segmentation import Segmentation
from .text import normalise


#: Commas and semicolons of Latin, CJK (full and half width) and Arabic script, the Japanese middle dot, line breaks.
_SIGNS = r"[,;\n，；、､・･،؛]"
_SEPARATOR = {
    "words": re.compile(_SIGNS + r"|\band\b", re.IGNORECASE),
    # The word "and" of scripts that are written without spaces; longer words first.
    "characters": re.compile(_SIGNS + r"|\band\b|以及|及び|および|그리고|และ|和|与|與|及", re.IGNORECASE),
}


def list_items(text: str, segmentation: Segmentation = "words") -> frozenset[str]:
    """The distinct entries of a list, normalised (`normalise`); the order and repetitions are forgotten.

    Commas, semicolons, line breaks and the word "and" separate entries: ``"Texas, Ohio and Iowa."`` has three. A text
    without any of them is a list of one.

    Args:
        text: The list.
        segmentation: With ``characters`` the Chinese, Japanese, Korean and Thai words for "and" separate as well.
    """
    return frozenset(entry for part in _SEPARATOR[segmentation].split(text) if (entry := normalise(part)))


def set_f1(prediction: frozenset[str], reference: frozenset[str]) -> float:
    """F1 of two sets, 0-1: 2·|p ∩ r| / (|p| + |r|). Naming everything costs precision; two empty sets agree (1)."""
    size = len(prediction) + len(reference)
    return 2 * len(prediction & reference) / size if size else 1.0


class ListF1(SegmentingScorer):
    """Mean over items of the F1 of the two sets of list entries (`list_items`, `set_f1`), in percent.

    ``extra``: ``exact_lists``, the share of items with exactly the right entries, in percent, and ``constant_baseline``
    and ``constant_answer``, the best constant answer among the `MAX_CANDIDATES` most frequent references.
    """

    name = "list_f1"
    version = 2
    summary = "F1 of the sets of list entries, in any order, mean over items; in percent"
    reports = "share of exact lists, best constant answer"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        way, key = self._segmentation(items)
        references = [list_items(item.reference, way) for item in items]
        pairs = [(list_items(item.prediction, way), right) for item, right in zip(items, references, strict=True)]
        extra = {"exact_lists": 100 * sum(found == right for found, right in pairs) / len(items)}
        extra |= best_constant(candidates([item.reference for item in items]), _constant_value(references, way))
        return self._mean([100 * set_f1(found, right) for found, right in pairs], extra, seed, key)


def _constant_value(references: Sequence[frozenset[str]], way: Segmentation) -> Callable[[str], float]:
    """The mean F1 of a constant answer against all references, 0-100; equal references are scored once."""
    counts = Counter(references)

    def value(answer: str) -> float:
        found = list_items(answer, way)
        f1 = math.fsum(count * set_f1(found, reference) for reference, count in counts.items())
        return 100 * f1 / len(references)

    return value
