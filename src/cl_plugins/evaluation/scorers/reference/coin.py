"""CoIN (zackschen/CoIN at 4122465) and UCIT as MCITlib (2956dfd) scores it, bug for bug.

What is wrong with each rule is documented at its function; the strict twins are `exact_match`, `contains` and
`choice_accuracy`.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from ....base.errors import DataError, Problem
from ...items import Item, TaskScore, few, require_items
from ..base import Scorer
from . import mllm_cl
from .base import ReferenceLibrary, RuleScorer, several
from .captions import CaptionScorer
from .vqa_text import textvqa_answer


COIN_SOURCE = "zackschen/CoIN, commit 4122465"
MCITLIB_SOURCE = "Ghy0501/MCITlib, commit 2956dfd"
SCIENCEQA_LETTERS = "ABCDE"
TEXTVQA_ANSWERS = 10
_SINGLE = re.compile(r"\b(\w)\b")
_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


def upper_equal(item: Item) -> float:
    """ArxivQA, CLEVR-Math, IconQA, ImageNet-R, VQAv2, VizWiz (CoIN): equal in upper case, nothing stripped.

    MCITlib's file for the first four is called ``eval_deepseek_r1``; its language-model judge is commented out.
    """
    return float(item.prediction.upper() == item.reference.upper())


def lower_equal(item: Item) -> float:
    """OCR-VQA: equal in lower case, nothing stripped; an answer with ``Unanswerable`` is wrong.

    CoIN's report says ``Samples: 0`` for every input; its accuracy is right.
    """
    return float(not mllm_cl.unanswerable(item) and item.prediction.lower() == item.reference.lower())


def imagenet(item: Item) -> float:
    """ImageNet: reference in answer or answer in reference, with their case; an empty answer is right."""
    return float(item.reference in item.prediction or item.prediction in item.reference)


def gqa(item: Item) -> float:
    """GQA: the answer without its last full stops, in lower case, equals the reference."""
    return float(item.prediction.rstrip(".").lower() == item.reference)


def first_letter_word(prediction: str) -> str | None:
    """CoIN's last resort for ScienceQA: the first word of one character, in upper case ("a dog" chooses A)."""
    found = _SINGLE.findall(prediction)
    return found[0].upper() if found else None


def answer_is(prediction: str) -> str | None:
    """MCITlib's last resort for ScienceQA: the only ``The answer is X`` followed by any character."""
    found = _ANSWER_IS.findall(prediction)
    return str(found[0]) if len(found) == 1 else None


def scienceqa(last_resort: Callable[[str], str | None]) -> Callable[[Item], float]:
    """ScienceQA: exactly a letter A-E, else a letter followed by ``". "``, else the last resort.

    A letter beyond the options is wrong.

    Args:
        last_resort: `first_letter_word` (CoIN) or `answer_is` (MCITlib).
    """

    def rule(item: Item) -> float:
        text = item.prediction
        if text in tuple(SCIENCEQA_LETTERS):
            chosen: str | None = text
        elif len(text) >= 3 and text[0] in SCIENCEQA_LETTERS and text[1:3] == ". ":
            chosen = text[0]
        else:
            chosen = last_resort(text)
        known = SCIENCEQA_LETTERS[: len(item.options)] if item.options else SCIENCEQA_LETTERS
        return float(chosen is not None and chosen in known and chosen == _right_letter(item))

    return rule


def _right_letter(item: Item) -> str:
    """The reference's letter; a letter of the options is that letter, regardless of the texts of the options."""
    right = item.reference.strip()
    if len(right) == 1 and right in SCIENCEQA_LETTERS[: len(item.options or SCIENCEQA_LETTERS)]:
        return right
    if item.options and right in item.options:
        return string.ascii_uppercase[item.options.index(right)]
    return right


def grounding(item: Item) -> float:
    """Grounding: intersection over union above 0.5.

    The brackets are taken off the answer and then, again, its first and last character, which by now are digits:
    "[0.12, 0.2, 0.5, 0.88]" is read as .12, .2, .5, .8. An answer that is not four numbers is wrong.
    """
    right = _numbers(str(item.fields["answer_bbox"]).replace("[", "").replace("]", ""))
    given = _numbers(item.prediction.replace("[", "").replace("]", "")[1:-1])
    if given is None or right is None:
        return 0.0
    side = max(float(length) for length in item.fields["size"])
    return float(_overlap([x * side for x in given], [x * side for x in right]) > 0.5)


def _numbers(text: str) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 where the union has no area."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / union if union > 0 else 0.0


def soft_vqa(item: Item) -> float:
    """TextVQA: VQA's soft accuracy over ten human answers, min(1, agreeing others / 3), mean over leaving each one out."""
    answers = [textvqa_answer(answer) for answer in several(item)]
    count = answers.count(textvqa_answer(item.prediction))
    # Of the ten ways to leave one answer out, `count` leave out an agreeing one.
    kept = [count - 1] * count + [count] * (len(answers) - count) if count else [0]
    return sum(min(1.0, agreeing / 3) for agreeing in kept) / len(kept)


class RowScorer(RuleScorer):
    """A rule of a library whose script joins answers and annotations by row and ignores the ids."""

    by_row = True


class NeedingScorer(RuleScorer):
    """A rule that needs more of an item than its texts; says what is missing before it scores."""

    def __init__(self, *args: Any, check: Callable[[Item], str | None]) -> None:
        """Set up as a `RuleScorer`, with a check that names what is wrong with an item."""
        super().__init__(*args)
        self.check = check

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        fix = "Give the original test file with --annotations, or keep its columns in your own."
        found = [Problem(f"item {i.id!r}", what, fix) for i in items if (what := self.check(i)) is not None]
        if found:
            raise DataError(few(found))
        return super().score(items, seed=seed)


def _box_missing(item: Item) -> str | None:
    size, box = item.fields.get("size"), item.fields.get("answer_bbox")
    if not isinstance(size, list | tuple) or not size or not all(map(_is_number, size)):
        return f"'size' must be the picture's [width, height], found {size!r}."
    if box is None or _numbers(str(box).replace("[", "").replace("]", "")) is None:
        return f"'answer_bbox' must be four numbers, found {box!r}."
    return None


def _is_number(value: object) -> bool:
    """Numbers, also written out: the prepared data hold lists of texts."""
    try:
        return value is not None and math.isfinite(float(str(value)))
    except ValueError:
        return False


def _answers_missing(item: Item) -> str | None:
    count = len(several(item))
    return None if count == TEXTVQA_ANSWERS else f"needs the {TEXTVQA_ANSWERS} human 'answers', found {count}."


def _coin(library: str, last_resort: Callable[[str], str | None]) -> dict[str, Scorer]:
    def simple(task: str, rule: Callable[[Item], float], summary: str, twin: str = "exact_match") -> Scorer:
        return RuleScorer(f"peer:{library}:{task}", rule, summary, twin)

    return {
        "scienceqa": RuleScorer(
            f"peer:{library}:scienceqa",
            scienceqa(last_resort),
            "a letter, 'X. ', or a last resort",
            "choice_accuracy",
            version=2,
        ),
        "textvqa": NeedingScorer(
            f"peer:{library}:textvqa",
            soft_vqa,
            "soft accuracy over ten answers",
            "exact_match",
            check=_answers_missing,
        ),
        "imagenet": RowScorer(
            f"peer:{library}:imagenet", imagenet, "one text holds the other; an empty answer is right", "contains"
        ),
        "gqa": simple("gqa", gqa, "equal in lower case without the last full stops"),
        "vizwiz": simple("vizwiz", upper_equal, "equal in upper case"),
        "grounding": NeedingScorer(
            f"peer:{library}:grounding",
            grounding,
            "box with its outer digits cut, IoU > 0.5",
            "box_accuracy",
            check=_box_missing,
        ),
        "vqav2": simple("vqav2", upper_equal, "equal in upper case"),
        "ocrvqa": simple("ocrvqa", lower_equal, "equal in lower case"),
    }


def _ucit(library: str, caption_of: str = "vizwiz") -> dict[str, Scorer]:
    found: dict[str, Scorer] = {
        task: RuleScorer(f"peer:{library}:{task}", upper_equal, "equal in upper case", "exact_match")
        for task in ("imagenet_r", "arxivqa", "iconqa", "clevr_math")
    }
    return found | {task: CaptionScorer(f"peer:{library}:{task}") for task in (caption_of, "flickr30k")}


_CAPTION_ALIASES = {"flickr": "flickr30k", "clevr": "clevrmath", "imagenetr": "imagenetr", "vizwizcap": "vizwiz"} | {
    "vizwizcaption": "vizwiz",
    "vizcap": "vizwiz",
}
_MCIT_ALIASES = mllm_cl.ALIASES | {
    "flickr": "flickr30k",
    "clevr": "clevrmath",
    "vizwizcaption": "vizwizcap",
    "vizcap": "vizwizcap",
    "ocrvqa": "ocrvqa",
}
COIN = ReferenceLibrary("coin", COIN_SOURCE, _coin("coin", first_letter_word), aliases={"sqa": "scienceqa"})
UCIT = ReferenceLibrary("ucit", MCITLIB_SOURCE, _ucit("ucit"), aliases=_CAPTION_ALIASES)
MCITLIB = ReferenceLibrary(
    "mcitlib",
    MCITLIB_SOURCE,
    mllm_cl.scorers("mcitlib") | _coin("mcitlib", answer_is) | _ucit("mcitlib", "vizwiz_cap"),
    aliases=_MCIT_ALIASES,
    refused=mllm_cl.REFUSED,
)
