"""MLLM-CL (bjzhb666/MLLM-CL at 80bf389, ``ETrain/Eval/LLaVA/CoIN/eval_*.py``), bug for bug.

MCITlib (2956dfd) ships the same files for its MLLM-DCL and MLLM-ACL streams. The comments say what is wrong with each
rule; the strict twins (`contains`, `exact_match`) do not share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ....base.errors import DataError, Problem
from ...intervals import wilson
from ...items import Item, TaskScore, few, require_items
from ...right_answers import STATES
from ..base import BaseScorer, Scorer
from .base import ReferenceLibrary, RuleScorer, several, text_field


SOURCE = "bjzhb666/MLLM-CL, commit 80bf389"
#: Sources of the Sci task whose questions are multiple choice; every other file name is taken for MapQA.
CHOICE_SOURCES = ("AI2D", "TQA", "VQA", "SciVerse")
#: OCRBench's categories, by the name under which the library adds them up.
OCR_GROUPS = {
    "Regular Text Recognition": "text_recognition",
    "Irregular Text Recognition": "text_recognition",
    "Artistic Text Recognition": "text_recognition",
    "Handwriting Recognition": "text_recognition",
    "Digit String Recognition": "text_recognition",
    "Non-Semantic Text Recognition": "text_recognition",
    "Scene Text-centric VQA": "scene_text_centric_vqa",
    "Doc-oriented VQA": "doc_oriented_vqa",
    "Key Information Extraction": "key_information_extraction",
    "Handwritten Mathematical Expression Recognition": "handwritten_mathematical_expression_recognition",
}
_FORMULA = "Handwritten Mathematical Expression Recognition"
#: Number of items of OCRBench; the library divides by a tenth of it for every test set.
OCR_ITEMS = 1000


def unanswerable(item: Item) -> bool:
    """Whether the libraries skip the answer: counted in the denominator, never right (the word's case matters)."""
    return "Unanswerable" in item.prediction


def pathvqa(item: Item) -> float:
    """Med (``eval_pvqa``): the reference's letters occur somewhere in the answer, both in lower case.

    ``no`` is found in "not visible" and in "known", ``yes`` in "no, yes".
    """
    return float(not unanswerable(item) and item.reference.lower() in item.prediction.lower())


def word_beside(item: Item) -> float:
    """RS and AD (``eval_ai2d``): a boundary is asked for on one side only, and only if the answer has several words.

    A reference with a space counts as `pathvqa`. Otherwise its full stops are dropped; in an answer with a space it
    must have a space before it, or a space, full stop or comma behind it; in any other answer it may be anywhere.
    ``a`` is found in "The answer is B", ``1`` in "10", ``c`` in "car".
    """
    if unanswerable(item):
        return 0.0
    answer, right = item.prediction.lower(), item.reference.lower()
    if " " in right:
        return float(right in answer)
    right = right.replace(".", "")
    if " " in answer:
        return float(any(form in answer for form in (f" {right}", f"{right} ", f"{right}.", f"{right},")))
    return float(right in answer)


def science(item: Item) -> float:
    """Sci (``eval_sci``): which rule holds is read off the picture's file name.

    Multiple choice (`CHOICE_SOURCES`): equal in lower case, so that "B." and "B. x" are wrong. MapQA: for a question with
    ``Which states`` the share of the comma-separated pieces of the reference that are pieces of the answer; the pieces
    are not stripped, so that "Ohio, Texas" gets nothing for "Texas, Ohio", and naming every state gets everything. For
    other questions as `pathvqa`.

    Without a file name, a reference that is one letter A-D is taken for multiple choice, as the port of the
    Medical-CL authors does (lihe50hz/MLLM-Forgetting).
    """
    if unanswerable(item):
        return 0.0
    answer, right = item.prediction.lower(), item.reference.lower()
    if _is_choice(item):
        return float(answer == right)
    if STATES in item.prompt:
        pieces, given = right.split(","), answer.split(",")
        return sum(piece in given for piece in pieces) / len(pieces)
    return float(right in answer)


def _is_choice(item: Item) -> bool:
    image = text_field(item, "image")
    if image is None:
        return item.reference.lower() in ("a", "b", "c", "d")
    return image.split("/")[-1].split("_")[0] in CHOICE_SOURCES


def finance(item: Item) -> float:
    """Fin (``eval_finvis``): equal in lower case once spaces and full stops are taken out of the answer only.

    A reference that holds a space or a full stop can never be met.
    """
    answer = item.prediction.lower().replace(" ", "").replace(".", "")
    return float(not unanswerable(item) and answer == item.reference.lower())


def squeezed(item: Item) -> float:
    """VP (``eval_sat``): as `pathvqa` after spaces, line breaks and full stops are taken out of both sides."""
    answer, right = (
        text.lower().strip().replace(" ", "").replace("\n", "").replace(".", "")
        for text in (item.prediction, item.reference)
    )
    return float(right in answer)


def ocr(item: Item) -> float:
    """OCR (``eval_ocr``, OCRBench): one of the right answers occurs in the answer.

    Formulas are compared with their case and without spaces, everything else in lower case.
    """
    if text_field(item, "answer_type") == _FORMULA:
        answer = item.prediction.strip().replace(" ", "").replace("\n", "")
        return float(any(right.strip().replace(" ", "").replace("\n", "") in answer for right in several(item)))
    answer = item.prediction.lower().strip().replace("\n", "")
    return float(any(right.lower().strip().replace("\n", "") in answer for right in several(item)))


class ScienceScorer(RuleScorer):
    """Sci; also says how many items had no file name to decide by."""

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        score = super().score(items, seed=seed)
        missing = sum(text_field(item, "image") is None for item in items)
        if missing:
            score.extra["items_without_image"] = missing
        return score


class CountingScorer(RuleScorer):
    """VP; besides the accuracy the library prints that of the items whose task is ``Count``."""

    def metrics(self, items: Sequence[Item], values: Sequence[float], score: float) -> dict[str, float]:
        """What the library prints; it crashes where there is no ``Count`` item, here the number is left out."""
        counts = [v for item, v in zip(items, values, strict=True) if text_field(item, "task") == "Count"]
        return {"accuracy": score} | ({"count_accuracy": 100 * sum(counts) / len(counts)} if counts else {})


class OcrScorer(BaseScorer):
    """OCR: hits divided by ten, which is a percentage for a test set of exactly 1,000 items and for no other.

    ``extra``: ``metrics`` (the library's sums by category, ``final_score``, ``final_score_norm``), ``accuracy`` (hits
    in percent of the items there are).
    """

    name = "peer:mllm_cl:ocr"
    version = 1
    summary = "MLLM-ACL OCR: one of the answers occurs in the prediction; hits / 10, right for 1,000 items only"

    def __init__(self, library: str = "mllm_cl") -> None:
        """Set up under the name of a library."""
        self.name = f"peer:{library}:ocr"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`.

        Raises:
            DataError: Also if there are more than 1,000 items, or an item has no category of OCRBench.
        """
        require_items(items)
        self._check(items)
        hits = [ocr(item) == 1.0 for item in items]
        n, right = len(items), sum(hits)
        groups = Counter(dict.fromkeys(OCR_GROUPS.values(), 0))
        groups.update(OCR_GROUPS[str(text_field(i, "answer_type"))] for i, hit in zip(items, hits, strict=True) if hit)
        metrics = {**groups, "final_score": right, "final_score_norm": right / 10}
        extra: dict[str, Any] = {"metrics": metrics, "accuracy": 100 * right / n, "strict_twin": "contains"}
        low, high = wilson(right, n)
        shrink = n / OCR_ITEMS
        values = tuple(100.0 if hit else 0.0 for hit in hits)
        return TaskScore(self.key, right / 10, n, (low * shrink, high * shrink), "wilson", values, extra)

    def _check(self, items: Sequence[Item]) -> None:
        if len(items) > OCR_ITEMS:
            what = f"{len(items)} items; the original code divides the hits by 10 for any number of items."
            raise DataError(Problem(self.name, what, "Use `contains`, or OCRBench's 1,000 items."))
        problems = [
            Problem(
                f"item {item.id!r}", f"its answer_type {item.fields.get('answer_type')!r} is none of OCRBench's.", fix
            )
            for fix in [f"Known: {', '.join(OCR_GROUPS)}."]
            for item in items
            if text_field(item, "answer_type") not in OCR_GROUPS
        ]
        if problems:
            raise DataError(few(problems))


def scorers(library: str) -> dict[str, Scorer]:
    """The scorers of the domain and ability streams, under the name of a library."""

    def name(task: str) -> str:
        return f"peer:{library}:{task}"

    return {
        "rs": RuleScorer(name("rs"), word_beside, "reference in the answer, a boundary on one side", "contains"),
        "med": RuleScorer(name("med"), pathvqa, "letters of the reference anywhere in the answer", "contains"),
        "ad": RuleScorer(name("ad"), word_beside, "reference in the answer, a boundary on one side", "contains"),
        "sci": ScienceScorer(name("sci"), science, "exact letter; MapQA: share of list pieces", "exact_match"),
        "fin": RuleScorer(
            name("fin"), finance, "equal once the answer's spaces and full stops are gone", "exact_match"
        ),
        "vp": CountingScorer(name("vp"), squeezed, "letters of the reference in the squeezed answer", "contains"),
        "ocr": OcrScorer(library),
    }


ALIASES = {
    "remotesensing": "rs",
    "rsvqa": "rs",
    "medical": "med",
    "pathvqa": "med",
    "drivelm": "ad",
    "autonomousdriving": "ad",
    "science": "sci",
    "finance": "fin",
    "stockqa": "fin",
    "count": "vp",
    "visualperception": "vp",
}
REFUSED = {
    "math": "the original evaluation uses a commercial language model to extract the answer.",
    "app": "the original evaluation uses a server.",
}
LIBRARY = ReferenceLibrary("mllm_cl", SOURCE, scorers("mllm_cl"), aliases=ALIASES, refused=REFUSED)
