"""MCITlib's caption score for UCIT (2956dfd, ``eval_caption.py``): a mean of metrics with different scales."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ....base.errors import CompatibilityError, Problem
from ...intervals import bootstrap_mean
from ...items import Item, TaskScore, require_items
from ..base import BaseScorer
from .base import several
from .packages import need


METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")


def composite(metrics: Mapping[str, float]) -> float:
    """The unweighted mean of the seven numbers, each already times 100.

    CIDEr runs to 1000 on this scale, so that the mean is no percentage, and it moves with CIDEr more than with the rest.

    Args:
        metrics: All of `METRICS`.
    """
    return math.fsum(metrics[name] for name in METRICS) / len(METRICS)


class CaptionScorer(BaseScorer):
    """COCO caption evaluation (pycocoevalcap, which needs Java), then `composite`.

    ``extra``: ``metrics`` (the seven and ``average``), ``strict_twin``. An item's score is its ROUGE-L, because the composite
    has none; the interval is that of a bootstrap of the items' ROUGE-L, moved to the composite.
    """

    version = 1
    summary = "mean of BLEU-1..4, METEOR, ROUGE-L and CIDEr, each x 100; CIDEr can exceed 100"

    def __init__(self, name: str) -> None:
        """Set up under a name."""
        self.name = name

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`.

        Raises:
            CompatibilityError: pycocoevalcap or Java is missing.
        """
        require_items(items)
        metrics, rouge = self._evaluate(items)
        average = composite(metrics)
        low, high = bootstrap_mean(rouge, seed=seed)
        middle = math.fsum(rouge) / len(rouge)
        interval = (max(0.0, average + low - middle), average + high - middle)
        extra: dict[str, Any] = {"metrics": metrics | {"average": average}, "strict_twin": "bleu"}
        return TaskScore(self.key, average, len(items), interval, "bootstrap", tuple(rouge), extra)

    def _evaluate(self, items: Sequence[Item]) -> tuple[dict[str, float], list[float]]:
        """The seven metrics, each times 100, and the items' ROUGE-L."""
        modules = {
            name: need(f"pycocoevalcap.{name}", "pycocoevalcap", self.name)
            for name in ("bleu.bleu", "meteor.meteor", "rouge.rouge", "cider.cider", "tokenizer.ptbtokenizer")
        }
        references = {n: [{"caption": text} for text in several(item)] for n, item in enumerate(items)}
        answers = {n: [{"caption": item.prediction}] for n, item in enumerate(items)}
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the library prints what it counts
                tokenizer = modules["tokenizer.ptbtokenizer"].PTBTokenizer()
                references, answers = tokenizer.tokenize(references), tokenizer.tokenize(answers)
                bleu, _ = modules["bleu.bleu"].Bleu(4).compute_score(references, answers)
                meteor, _ = modules["meteor.meteor"].Meteor().compute_score(references, answers)
                rouge, each = modules["rouge.rouge"].Rouge().compute_score(references, answers)
                cider, _ = modules["cider.cider"].Cider().compute_score(references, answers)
        except OSError as error:
            what = f"cannot start Java, which METEOR and the tokeniser need ({error})."
            raise CompatibilityError(Problem(self.name, what, "Install a Java runtime.")) from error
        found = [*bleu, meteor, rouge, cider]
        return {name: 100 * float(value) for name, value in zip(METRICS, found, strict=True)}, [
            100 * float(v) for v in each
        ]
