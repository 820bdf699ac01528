"""Captions and reports: BLEU."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from ...base.errors import Problem, RecipeError
from ..intervals import bootstrap
from ..items import Item, TaskScore, require_items
from .base import BaseScorer
from .baselines import best_constant, candidates
from .segmentation import bleu_tokenizer


ORDER = 4
#: The tokenisers of sacrebleu that may be named, with the module and the package that they need.
TOKENIZERS: dict[str, tuple[str, str] | None] = {
    "13a": None,
    "intl": None,
    "zh": None,
    "char": None,
    "ja-mecab": ("MeCab", "'sacrebleu[ja]'"),
    "ko-mecab": ("mecab_ko", "'sacrebleu[ko]'"),
}


class Bleu(BaseScorer):
    """Corpus BLEU by sacrebleu with its defaults (order 4, exponential smoothing), 0-100.

    The tokeniser is sacrebleu's default ``13a``, ``zh`` for Chinese references and ``char`` for other scripts without
    spaces (`bleu_tokenizer`), or the one after the name (``bleu:ja-mecab``). It is in the signature, and unless the
    references decided for ``13a`` in the key of the score (``bleu:zh@1``).

    Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores". The score of an item is its
    sentence BLEU (effective order); the corpus score is not their mean. The interval resamples items and sums their
    n-gram counts.

    ``extra``: ``signature`` (sacrebleu's, which fixes the variant), ``sentence_bleu`` (the mean of the items' scores),
    ``shuffled_floor`` (the predictions against a seeded derangement of the references: what knowing the style but not
    the image gives; None for a single item), ``constant_baseline`` and ``constant_answer`` (the best constant answer
    among all distinct references).
    """

    name = "bleu"
    version = 1
    summary = "corpus BLEU (sacrebleu; 13a, zh or char by the references), with a shuffled-reference floor and the best constant answer"
    reports = "mean of the sentences' BLEU, shuffled-reference floor, best constant answer"

    variants = tuple(TOKENIZERS)

    def as_variant(self, variant: str) -> BaseScorer:
        """See `BaseScorer.as_variant`.

        Raises:
            RecipeError: The tokeniser needs a package that is not installed.
        """
        package = TOKENIZERS[variant]
        if package is not None and find_spec(package[0]) is None:
            what = f"needs the package {package[1]}, which is not installed."
            fix = f"pip install {package[1]}, or take `bleu:char`."
            raise RecipeError(Problem(f"bleu:{variant}", what, fix))
        return super().as_variant(variant)

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        from sacrebleu.metrics.bleu import BLEU

        require_items(items)
        name = self.variant or bleu_tokenizer(item.reference for item in items)
        key = self.key if name == "13a" else self._key_of(name)
        predictions = [item.prediction for item in items]
        references = [item.reference for item in items]
        corpus = BLEU(force=True, tokenize=name)
        score = _percent(corpus.corpus_score(predictions, [references]).score)
        results = _sentences(items, name)
        floor = None
        if len(items) > 1:
            shuffled = [references[index] for index in derangement(len(items), seed)]
            floor = _percent(BLEU(force=True, tokenize=name).corpus_score(predictions, [shuffled]).score)
        values = tuple(_percent(result.score) for result in results)
        extra: dict[str, Any] = {
            "signature": str(corpus.get_signature()),
            "sentence_bleu": math.fsum(values) / len(values),
            "shuffled_floor": floor,
        }
        extra |= best_constant(candidates(references, limit=None), _constant_value(references, corpus.tokenizer))
        return TaskScore(
            key,
            score,
            len(items),
            bootstrap(_counts(results), _from_counts, seed=seed),
            "bootstrap",
            values,
            extra,
        )

    def statistics(self, items: Sequence[Item]) -> tuple[list[list[float]], Callable[[Any], float]]:
        """Lengths and n-gram counts of each item, and corpus BLEU of their sums; see `BaseScorer.statistics`."""
        name = self.variant or bleu_tokenizer(item.reference for item in items)
        return _counts(_sentences(items, name)), _from_counts


def _sentences(items: Sequence[Item], tokenizer: str) -> list[Any]:
    """Sentence BLEU of each item, with the counts that it is computed from."""
    from sacrebleu.metrics.bleu import BLEU

    sentence = BLEU(force=True, tokenize=tokenizer, effective_order=True)
    return [sentence.sentence_score(item.prediction, [item.reference]) for item in items]


def _counts(results: Sequence[Any]) -> list[list[float]]:
    """Hypothesis and reference length, matches and totals per order of each item."""
    return [[r.sys_len, r.ref_len, *r.counts, *r.totals] for r in results]


def derangement(n: int, seed: int) -> list[int]:
    """A permutation of 0..n-1 that leaves no index in place: one random cycle (Sattolo 1986).

    Raises:
        ValueError: n is below 2, where there is none.
    """
    if n < 2:
        raise ValueError(f"there is no derangement of {n} items")
    rng = random.Random(seed)
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        other = rng.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order


def _percent(value: float) -> float:
    """The value without the 4e-14 that exp(log(100)) leaves above 100."""
    return min(100.0, max(0.0, float(value)))


def _from_counts(sums: Iterable[float]) -> float:
    """Corpus BLEU from summed counts: hypothesis and reference length, matches and totals per order."""
    from sacrebleu.metrics.bleu import BLEU

    whole = [round(float(value)) for value in sums]
    result = BLEU.compute_bleu(
        correct=whole[2 : 2 + ORDER],
        total=whole[2 + ORDER :],
        sys_len=whole[0],
        ref_len=whole[1],
        smooth_method="exp",
    )
    return _percent(result.score)


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))


def _constant_value(references: Sequence[str], tokenizer: Callable[[str], str]) -> Callable[[str], float]:
    """The corpus BLEU of a constant answer, as a function whose cost does not grow with the test set.

    An n-gram that the answer holds h times matches a reference that holds it c times min(h, c) times, which is the
    number of k <= h with c >= k. So it is enough to know, for each n-gram and k, how many references hold it
    at least k times.
    """
    at_least: Counter[tuple[tuple[str, ...], int]] = Counter()
    length = 0
    for reference in references:
        words = tokenizer(reference.rstrip()).split()
        length += len(words)
        for ngram, count in _ngrams(words).items():
            at_least.update((ngram, k) for k in range(1, count + 1))

    def value(answer: str) -> float:
        words = tokenizer(answer.rstrip()).split()
        correct = [0] * ORDER
        for ngram, count in _ngrams(words).items():
            correct[len(ngram) - 1] += sum(at_least[ngram, k] for k in range(1, count + 1))
        total = [max(0, len(words) - order) for order in range(ORDER)]
        n = len(references)
        return _from_counts([n * len(words), length, *correct, *(n * count for count in total)])

    return value
