"""Texts in order: the longest common subsequence, over words (ROUGE-L) and over characters (edit similarity)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Hashable, Sequence

from ..items import Item, TaskScore, require_items
from .base import SegmentingScorer
from .bleu import derangement
from .text import tokens


def common_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): one addition of ``len(first)`` bits for each element of ``second``.

    Args:
        first: A text, or a list of tokens.
        second: Another one.
    """
    places: dict[Hashable, int] = {}
    for place, element in enumerate(first):
        places[element] = places.get(element, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for element in second:
        hit = row & places.get(element, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(first) - row.bit_count()


def similarity(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Twice the common length over both lengths, 0-1; two empty sequences agree (1).

    This is the F1 of the two coverages, and 1 - d / (m + n) for the edit distance d without replacements.
    """
    size = len(first) + len(second)
    return 2 * common_length(first, second) / size if size else 1.0


def _floor(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], seed: int) -> float | None:
    """The predictions against a seeded derangement of the references, 0-100; None for a single item."""
    n = len(references)
    if n < 2:
        return None
    others = derangement(n, seed)
    return 100 * math.fsum(similarity(predictions[i], references[others[i]]) for i in range(n)) / n


class _Similarity(SegmentingScorer):
    """Mean over items of `similarity`, in percent."""

    def _score(self, items: Sequence[Item], split: Callable[[str], Sequence[str]], key: str, seed: int) -> TaskScore:
        predictions = [split(item.prediction) for item in items]
        references = [split(item.reference) for item in items]
        values = [100 * similarity(p, r) for p, r in zip(predictions, references, strict=True)]
        return self._mean(values, {"shuffled_floor": _floor(predictions, references, seed)}, seed, key)


class RougeL(_Similarity):
    """ROUGE-L (Lin 2004, sentence level, F with beta 1): the longest common subsequence of words, mean over items; in percent.

    Words are normalised as for `TokenF1`, and single characters where the references are written without spaces. There
    is no stemming. ``extra``: ``shuffled_floor``, the predictions against other items' references.
    """

    name = "rouge_l"
    version = 2
    summary = "ROUGE-L: F1 of the longest common subsequence of words, mean over items; in percent"
    reports = "shuffled-reference floor"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        way, key = self._segmentation(items)
        return self._score(items, lambda text: tokens(text, way), key, seed)


class EditSimilarity(_Similarity):
    """Similarity of two texts as character sequences, mean over items; in percent.

    100 (1 - d / (m + n)) for two texts of m and n characters, where d counts the characters to insert and to delete. Case and punctuation
    count, spaces at both ends do not. ``extra``: ``shuffled_floor``, the predictions against other items' references.
    """

    name = "edit_similarity"
    version = 1
    summary = "similarity of the characters in order (insertions and deletions), mean over items; in percent"
    reports = "shuffled-reference floor"
    variants = ()

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        return self._score(items, lambda text: unicodedata.normalize("NFC", text).strip(), self.key, seed)
