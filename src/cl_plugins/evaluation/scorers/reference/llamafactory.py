"""LLaMA-Factory's own text metrics (0.9.5, ``train/sft/metric.py``), bug for bug.

``bleu-4`` is NLTK's smoothed sentence BLEU over the *characters* of the two texts, ROUGE is taken over jieba's words, and
each item is rounded to four digits before the mean. Characters make everything look alike: on ROCOv2 the true captions
of *other* images get 15.7 (specs of the project, 30 captions), exact answers of three letters do not get 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...items import Item, TaskScore, require_items
from ..base import BaseScorer, Scorer
from ..bleu import derangement
from .base import ReferenceLibrary
from .packages import need


SOURCE = "hiyouga/LLaMA-Factory 0.9.5"
METRICS = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")


def character_bleu(prediction: str, reference: str) -> float:
    """``bleu-4`` of one item, 0-100, rounded to four digits."""
    nltk = need("nltk.translate.bleu_score", "nltk", "peer:llamafactory")
    smoothing = nltk.SmoothingFunction().method3
    return round(float(nltk.sentence_bleu([list(reference)], list(prediction), smoothing_function=smoothing)) * 100, 4)


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """ROUGE F over jieba's words, 0-100, rounded to four digits; all 0 if a side has no word."""
    jieba = need("jieba", "jieba", "peer:llamafactory")
    jieba.setLogLevel(60)  # it announces its dictionary on standard error
    given, wanted = (" ".join(jieba.cut(text)) for text in (prediction, reference))
    if not given.split() or not wanted.split():
        return dict.fromkeys(METRICS[1:], 0.0)
    scores = need("rouge_chinese", "rouge-chinese", "peer:llamafactory").Rouge().get_scores(given, wanted)[0]
    return {name: round(float(scores[name]["f"]) * 100, 4) for name in METRICS[1:]}


class LlamaFactoryScorer(BaseScorer):
    """LLaMA-Factory's ``predict`` metrics, one of which is the score.

    ``extra``: ``metrics`` by the host's names (without ``predict_``), ``strict_twin``, and for ``bleu-4`` the ``shuffled_floor``: the
    predictions against a seeded derangement of the references, which on this scale is close to what is published.
    """

    version = 1

    def __init__(self, name: str, metric: str = "bleu-4", only: bool = False) -> None:
        """Set up.

        Args:
            name: ``peer:...``.
            metric: The metric that is the score.
            only: Leave the other metrics out; for ``bleu-4`` this needs neither jieba nor rouge-chinese.
        """
        self.name, self.metric, self.only = name, metric, only
        what = "over characters, smoothed" if metric == "bleu-4" else "over jieba's words"
        self.summary = f"LLaMA-Factory's {metric}: {what}, mean of items rounded to 4 digits"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        rows = [self._row(item) for item in items]
        metrics = {name: math.fsum(row[name] for row in rows) / len(rows) for name in METRICS if name in rows[0]}
        extra: dict[str, Any] = {"metrics": metrics, "strict_twin": "bleu" if self.metric == "bleu-4" else "token_f1"}
        if self.metric == "bleu-4" and len(items) > 1:
            others = derangement(len(items), seed)
            pairs = ((item.prediction, items[n].reference) for item, n in zip(items, others, strict=True))
            extra["shuffled_floor"] = math.fsum(character_bleu(p, r) for p, r in pairs) / len(items)
        return self._mean([row[self.metric] for row in rows], extra, seed)

    def _row(self, item: Item) -> dict[str, float]:
        row = {"bleu-4": character_bleu(item.prediction, item.reference)} if self._wants_bleu() else {}
        return row | (rouge(item.prediction, item.reference) if self._wants_rouge() else {})

    def _wants_bleu(self) -> bool:
        return not self.only or self.metric == "bleu-4"

    def _wants_rouge(self) -> bool:
        return not self.only or self.metric != "bleu-4"


_ALL: dict[str, Scorer] = {name: LlamaFactoryScorer(f"peer:llamafactory:{name}", name, only=True) for name in METRICS}
LIBRARY = ReferenceLibrary("llamafactory", SOURCE, _ALL, default=LlamaFactoryScorer("peer:llamafactory"))
