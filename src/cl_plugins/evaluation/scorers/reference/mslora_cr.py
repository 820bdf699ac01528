"""MSLoRA-CR (VentusAislant/MSLoRA_CR at d606bc6, ``llava/eval/report_results.py``), bug for bug.

Both texts are put through `normalize_word`. CLOSED items count when the reference occurs in the answer (``normal`` in
"abnormal", ``no`` in "normal", an empty reference in anything). OPEN items, and those without ``answer_type``, get
token precision, recall, F1 and NLTK's sentence BLEU. What is wrong with these is documented at each function; the
strict twins are `exact_match`, `token_f1` and `bleu`.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....base.errors import DataError, Problem
from ...intervals import bootstrap_mean, wilson
from ...items import Item, TaskScore, few, require_items
from ..base import BaseScorer, Scorer
from ..bleu import derangement
from .base import ReferenceLibrary, text_field
from .packages import need
from .vqa_text import normalize_word


SOURCE = "VentusAislant/MSLoRA_CR, commit d606bc6"
#: Weights of NLTK's sentence BLEU. ``bleu_2`` and ``bleu_3`` are the precision of pairs and of triples alone (times the
#: brevity penalty), not the cumulative BLEU-2 and BLEU-3 that the names promise.
BLEU_WEIGHTS = {
    "bleu": (0.25, 0.25, 0.25, 0.25),
    "bleu_1": (1.0, 0.0, 0.0, 0.0),
    "bleu_2": (0.0, 1.0, 0.0, 0.0),
    "bleu_3": (0.0, 0.0, 1.0, 0.0),
}
OPEN_METRICS = ("f1", "precision", "recall", *BLEU_WEIGHTS)
METRICS = ("exact_match", *OPEN_METRICS, "closed_accuracy")
#: Test sets and the answer type of their items where it is the same for all.
TASKS = {
    "pathvqa": None,
    "slake-vqarad": None,
    "derm": None,
    "PCAM": "CLOSED",
    "CXP": "CLOSED",
    "HAM": "CLOSED",
    "nmi": "OPEN",
    "iu-x-ray": "OPEN",
}


def prepared(item: Item) -> tuple[str, str]:
    """Answer and reference as the authors' code compares them: lower case, ``assistant:`` dropped, normalised."""
    answer = item.prediction.lower().replace("assistant:", "").strip()
    return normalize_word(answer).strip(), normalize_word(item.reference.lower()).strip()


def closed(answer: str, right: str) -> bool:
    """Whether a CLOSED item is right: the prepared reference equals the prepared answer or is contained in it."""
    return right in answer


def calculate_f1score(answer: str, right: str) -> tuple[float, float, float]:
    """F1, precision and recall of two texts, 0-1, in the order of the authors' code.

    The texts are normalised (in its report for the second time). A right word counts as often as the answer repeats
    it, and repetitions in the reference count once, if at all: "lung lung lung liver" for "lung" has precision 0.75
    where 0.25 is right. All three are 0 when no word is shared or a side is empty, also when both are.
    """
    given, wanted = Counter(normalize_word(answer).split()), Counter(normalize_word(right).split())
    hits = sum(count for word, count in given.items() if word in wanted)
    if not hits:
        return 0.0, 0.0, 0.0
    missed = sum(count for word, count in wanted.items() if word not in given)
    precision, recall = hits / given.total(), hits / (hits + missed)
    return 2 * precision * recall / (precision + recall), precision, recall


def sentence_bleu(answer: str, right: str, weights: Sequence[float]) -> float:
    """NLTK's sentence BLEU without smoothing, 0-1.

    A text of fewer than four words has no group of four, so that its ``bleu`` is about 1e-231 even if it is right.

    Args:
        answer: The prepared answer.
        right: The prepared reference.
        weights: One of `BLEU_WEIGHTS`.
    """
    nltk = need("nltk.translate.bleu_score", "nltk", "peer:mslora_cr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK warns about every item without a match
        return float(nltk.sentence_bleu([right.lower().split()], answer.lower().split(), weights=weights))


@dataclass(frozen=True)
class Judged:
    """One item as the authors' code reads it: texts, whether it is open, and its metrics 0-1 by name."""

    answer: str
    right: str
    is_open: bool
    values: dict[str, float]

    @property
    def hit(self) -> bool:
        """Whether the authors' code counts a hit: a closed item that is right, an open one with recall > 0.5."""
        return self.values["recall"] > 0.5 if self.is_open else self.values["closed_accuracy"] == 1.0


def judge(item: Item, default: str = "OPEN") -> Judged:
    """Score one item.

    Args:
        item: The item.
        default: The answer type of an item without the key; the authors' code treats it as OPEN. An empty type is
            neither OPEN nor CLOSED: only ``exact_match`` applies.
    """
    answer, right = prepared(item)
    values = {"exact_match": float(answer == right)}
    kind = text_field(item, "answer_type") if "answer_type" in item.fields else default
    if kind == "OPEN":
        values |= dict(zip(("f1", "precision", "recall"), calculate_f1score(answer, right), strict=True))
        values |= {name: sentence_bleu(answer, right, weights) for name, weights in BLEU_WEIGHTS.items()}
    elif kind == "CLOSED":
        values["closed_accuracy"] = float(closed(answer, right))
    return Judged(answer, right, kind == "OPEN", values)


def summarise(judged: Sequence[Judged]) -> dict[str, float]:
    """The authors' table: each metric in percent over the items that have it; ``f1`` is the mean of the items' F1."""
    found = {}
    for name in METRICS:
        values = [one.values[name] for one in judged if name in one.values]
        if values:
            found[name] = 100 * (sum(values) / len(values))
    return found


def hit_files(items: Sequence[Item], judged: Sequence[Judged]) -> tuple[list[int], list[int]]:
    """The rows of the authors' ``hit.csv`` and ``not_hit.csv``, by position.

    Rows are chosen by ``question_id``, so that a row whose id occurs both right and wrong is in both files.
    """
    ids = [text_field(item, "question_id") or item.id for item in items]
    filed = [
        (key, one.hit) for key, one in zip(ids, judged, strict=True) if one.is_open or "closed_accuracy" in one.values
    ]
    hits = {key for key, hit in filed if hit}
    misses = {key for key, hit in filed if not hit}
    return [n for n, key in enumerate(ids) if key in hits], [n for n, key in enumerate(ids) if key in misses]


class MSLoRAScorer(BaseScorer):
    """All metrics of the authors' code, one of which is the score.

    The authors define no single number. Where none is chosen, the score is the mean over the items of
    ``closed_accuracy`` (CLOSED) and ``recall`` (OPEN), the pair that its results are quoted with.

    The authors' code leaves an item whose type is neither ``OPEN`` nor ``CLOSED`` out of everything but ``exact_match`` without
    saying so. Here an unknown type (``closed``) is refused, and the number of items with an empty one is reported.

    ``extra``: ``metrics`` (the authors' table, as far as it applies), ``strict_twin``, ``open_items``,
    ``closed_items``, ``items_without_type`` (if there are any), and for a BLEU as score ``shuffled_floor`` (the same BLEU against a seeded derangement of the
    references).
    """

    version = 2

    def __init__(self, name: str, metric: str | None, default: str, summary: str) -> None:
        """Set up.

        Args:
            name: ``peer:mslora_cr`` or ``peer:mslora_cr:<task or metric>``.
            metric: The metric that is the score; None for the mixture.
            default: The answer type of items that name none.
            summary: One line.
        """
        self.name, self.metric, self.default, self.summary = name, metric, default, summary

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`. Items that the metric does not apply to score 0 and are not counted.

        Raises:
            DataError: Also if an item has an unknown ``answer_type``.
        """
        require_items(items)
        self._check(items)
        judged = [judge(item, self.default) for item in items]
        counted = [value for one in judged if (value := self._value(one)) is not None]
        extra: dict[str, Any] = {
            "metrics": summarise(judged),
            "strict_twin": self._twin(),
            "open_items": sum(one.is_open for one in judged),
            "closed_items": sum("closed_accuracy" in one.values for one in judged),
        }
        untyped = len(items) - extra["open_items"] - extra["closed_items"]
        if untyped:
            extra["items_without_type"] = untyped
        if self.metric in BLEU_WEIGHTS and len(counted) > 1:
            extra["shuffled_floor"] = self._floor([one for one in judged if one.is_open], seed)
        per_item = tuple(100 * (self._value(one) or 0.0) for one in judged)
        if not counted:
            extra["not_applicable"] = f"no item has {self.metric}"
            return TaskScore(self.key, 0.0, len(items), (0.0, 0.0), "wilson", per_item, extra)
        score = 100 * math.fsum(counted) / len(counted)
        if set(counted) <= {0.0, 1.0}:
            interval, method = wilson(int(sum(counted)), len(counted)), "wilson"
        else:
            interval, method = bootstrap_mean([100 * value for value in counted], seed=seed), "bootstrap"
        return TaskScore(self.key, score, len(items), interval, method, per_item, extra)

    def _check(self, items: Sequence[Item]) -> None:
        """Refuse types that the authors' code knows no rule for, unless the score is that of all items."""
        if self.metric == "exact_match":
            return
        fix = "Write OPEN or CLOSED, or leave the key out, which means OPEN."
        problems = [
            Problem(
                f"item {item.id!r}", f"its answer_type {kind!r} is neither OPEN nor CLOSED, so it has no rule.", fix
            )
            for item in items
            if (kind := text_field(item, "answer_type") or "OPEN") not in ("OPEN", "CLOSED")
        ]
        if problems:
            raise DataError(few(problems))

    def _value(self, one: Judged) -> float | None:
        """What an item adds to the score, 0-1; None where it does not count."""
        if self.metric is not None:
            return one.values.get(self.metric)
        return one.values.get("recall" if one.is_open else "closed_accuracy")

    def _floor(self, opened: Sequence[Judged], seed: int) -> float:
        weights = BLEU_WEIGHTS[str(self.metric)]
        others = derangement(len(opened), seed)
        values = [sentence_bleu(one.answer, opened[n].right, weights) for one, n in zip(opened, others, strict=True)]
        return 100 * math.fsum(values) / len(values)

    def _twin(self) -> str:
        if self.metric in BLEU_WEIGHTS:
            return "bleu"
        return "exact_match" if self.metric in ("exact_match", "closed_accuracy") else "token_f1"


def _scorers() -> dict[str, Scorer]:
    found: dict[str, Scorer] = {}
    for task, kind in TASKS.items():
        summary = f"{task}: closed accuracy and open recall" if kind is None else f"{task}: all items are {kind}"
        found[task] = MSLoRAScorer(f"peer:mslora_cr:{task}", None, kind or "OPEN", summary)
    for metric in METRICS:
        found[metric] = MSLoRAScorer(f"peer:mslora_cr:{metric}", metric, "OPEN", f"{metric} as the score")
    return found


_ALIASES = {
    "pcam": "pcam",
    "slakevqarad": "slakevqarad",
    "slake": "slakevqarad",
    "iuxray": "iuxray",
    "iu": "iuxray",
    "wsidx": "nmi",
    "fitzpatrick": "derm",
    "fitzpatrick17k": "derm",
    "ham10000": "ham",
}
LIBRARY = ReferenceLibrary(
    "mslora_cr",
    SOURCE,
    _scorers(),
    default=MSLoRAScorer(
        "peer:mslora_cr", None, "OPEN", "closed accuracy and open recall; every other metric is reported too"
    ),
    aliases=_ALIASES,
)
