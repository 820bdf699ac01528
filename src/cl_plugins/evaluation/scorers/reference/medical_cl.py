"""Medical-CL (lihe50hz/MLLM-Forgetting at 16d5831, ``CL-evaluators/ml4h.py``): rules of the four tasks, and its average.

The averages printed in the paper do not follow from the printed cells because the evaluator cuts BLEU to a whole number
before averaging (`printed_average`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...items import Item
from ..base import Scorer
from .base import ReferenceLibrary, RuleScorer
from .llamafactory import LlamaFactoryScorer
from .mllm_cl import pathvqa


SOURCE = "lihe50hz/MLLM-Forgetting, commit 16d5831"


def letter(item: Item) -> float:
    """Sur and Cell (``result_matcher``): the answer is the letter, or begins with the letter and a full stop.

    Both sides are stripped and put in upper case; of an answer with a colon only what follows the last one counts.
    "(B)", "B)" and "B, because" are wrong; "b.lue" is right for B.
    """
    answer, right = item.prediction.strip(), item.reference.strip().upper()
    if ":" in answer:
        answer = answer.split(":")[-1].strip()
    answer = answer.upper()
    return float(answer == right or answer.startswith(f"{right}."))


def either_way(item: Item) -> float:
    """Path as the evaluator at that commit has it: the reference in the answer *or* the answer in the reference.

    Full stops and commas are taken out of the answer only. An empty answer is right. The paper describes the rule
    without the second half (`peer:medical_cl:path`); which of the two made the printed numbers cannot be told.
    """
    answer = item.prediction.strip().lower().replace(".", "").replace(",", "")
    right = item.reference.strip().lower()
    return float(right in answer or answer in right)


def printed_average(scores: Mapping[str, float], truncated: str = "rad") -> float:
    """The mean of the tasks' scores as the authors' evaluator computes it.

    36.01, 31.45, 4.99 and 12.86 give 21.11 (the mean is 21.33), as printed in Table 2 of the paper.

    Args:
        scores: Task to score, 0-100.
        truncated: The task whose score loses its decimals first.

    Raises:
        ValueError: There are no scores.
    """
    if not scores:
        raise ValueError("there is no average of no scores")
    return math.fsum(math.trunc(v) if task == truncated else v for task, v in scores.items()) / len(scores)


_SCORERS: dict[str, Scorer] = {
    "path": RuleScorer("peer:medical_cl:path", pathvqa, "letters of the reference anywhere in the answer", "contains"),
    "path_either_way": RuleScorer(
        "peer:medical_cl:path_either_way", either_way, "reference in answer or answer in reference", "contains"
    ),
    "sur": RuleScorer("peer:medical_cl:sur", letter, "the letter, or the letter and a full stop", "choice_accuracy"),
    "cell": RuleScorer("peer:medical_cl:cell", letter, "the letter, or the letter and a full stop", "choice_accuracy"),
    "rad": LlamaFactoryScorer("peer:medical_cl:rad", only=True),
}
_ALIASES = {
    "pathology": "path",
    "pathologyvqa": "path",
    "surgical": "sur",
    "surgicalvqa": "sur",
    "cellvqa": "cell",
    "radiology": "rad",
    "radiologyvqa": "rad",
}
LIBRARY = ReferenceLibrary("medical_cl", SOURCE, _SCORERS, aliases=_ALIASES)
