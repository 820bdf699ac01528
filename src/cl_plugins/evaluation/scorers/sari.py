"""Simplification: SARI, which compares an answer with the text that it simplifies and with a reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ..items import Item, TaskScore, require_items
from .base import SegmentingScorer
from .text import tokens


ORDER = 4
Ngrams = Counter[tuple[str, ...]]


def sari(source: Sequence[str], prediction: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SARI of one answer (Xu et al. 2016, section 4), 0-1.

    The mean of three scores, each the mean over n-grams of order 1 to 4: F1 of the n-grams that were kept, precision of
    those that were deleted, F1 of those that were added. An n-gram counts as kept, deleted or rightly so as often as it
    occurs, weighted by the share of references that agree; added n-grams count once. Where there is nothing to keep, delete or
    add, and nothing was, the score is 1.

    Args:
        source: Tokens of the text that is simplified.
        prediction: Tokens of the answer.
        references: Tokens of each reference.
    """
    scores = [_order(n, source, prediction, references) for n in range(1, ORDER + 1)]
    return math.fsum(math.fsum(parts) / 3 for parts in scores) / ORDER


def _order(
    n: int, source: Sequence[str], prediction: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, float, float]:
    """Keep, delete and add of n-grams of one order."""
    count = len(references)
    # Everything is counted once per reference, so that the references' counts can be compared as they are.
    given, answer = _ngrams(source, n, count), _ngrams(prediction, n, count)
    wanted: Ngrams = Counter()
    for reference in references:
        wanted.update(_ngrams(reference, n))
    kept, right_to_keep = given & answer, given & wanted
    good = kept & right_to_keep
    keep = _f1(_share(good, kept), good.total() / right_to_keep.total() if right_to_keep else 1.0)
    deleted = given - answer
    delete = _share(deleted - wanted, deleted)
    added, right_to_add = set(answer) - set(given), set(wanted) - set(given)
    hits = len(added & right_to_add)
    add = _f1(hits / len(added) if added else 1.0, hits / len(right_to_add) if right_to_add else 1.0)
    return keep, delete, add


def _ngrams(words: Sequence[str], n: int, times: int = 1) -> Ngrams:
    """The n-grams, each counted ``times`` times as often as it occurs."""
    found = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return found if times == 1 else Counter({ngram: times * number for ngram, number in found.items()})


def _share(part: Ngrams, whole: Ngrams) -> float:
    """Mean over the distinct n-grams of ``whole`` of their share that is in ``part``; 1 if there are none."""
    return math.fsum(part[ngram] / number for ngram, number in whole.items()) / len(whole) if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class Sari(SegmentingScorer):
    """Mean over items of `sari` with one reference, in percent.

    The source is the item's prompt, with its instruction if it has one. Words are normalised as for `TokenF1`, and single characters where
    the references are written without spaces. ``extra``: ``copy_baseline``, the SARI of answers that repeat the prompt.
    """

    name = "sari"
    version = 2
    summary = "SARI: n-grams kept, deleted and added rightly in simplifying the prompt, mean over items; in percent"
    reports = "SARI of repeating the prompt"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        way, key = self._segmentation(items)
        triples = [
            (tokens(item.prompt, way), tokens(item.prediction, way), tokens(item.reference, way)) for item in items
        ]
        values = [100 * sari(source, answer, [right]) for source, answer, right in triples]
        copies = math.fsum(100 * sari(source, source, [right]) for source, _, right in triples) / len(triples)
        return self._mean(values, {"copy_baseline": copies}, seed, key)
