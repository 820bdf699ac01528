"""Lists of right answers in records of test sets: which one is the reference, and which ones the rules for several get.

`cl-plugins score` and `cl-plugins data prepare` both read them here, so that an original file and what was made of it give the same
reference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


#: What a question of MapQA holds if its answer is a list of states; the libraries recognise them by it.
STATES = "Which states"


def most_frequent(answers: Sequence[str]) -> str:
    """The reference among several right answers: the most frequent, of equally frequent ones the first.

    That is the first of a list of alternatives (OCRBench, captions) and the majority of ten annotators (TextVQA). Annotators
    who have left their answer blank are not asked.
    """
    return Counter([answer for answer in answers if answer.strip()] or answers).most_common(1)[0][0]


def read_listed(listed: Sequence[object], question: str) -> tuple[str | None, list[str]]:
    """The reference of a record that lists its answers, and all of them where they are alternatives.

    The answers to a question of `STATES` are the pieces of one answer, joined by commas, unless some are equal: annotators
    who agree have given them.

    Args:
        listed: Texts, numbers, or objects with an ``answer`` (VQA); anything else in it is no answer.
        question: The question.

    Returns:
        The reference, None where all answers are blank; and the answers, blank ones among them, since rules that count
        annotators count all of them.
    """
    texts = [text for text in map(_text, listed) if text is not None]
    said = [text for text in texts if text.strip()]
    if not said:
        return None, []
    if STATES in question and len(set(said)) == len(said):
        return ",".join(said), []
    return most_frequent(said), texts


def _text(value: object) -> str | None:
    """One answer as text; None if it is none."""
    if isinstance(value, dict):
        value = value.get("answer")
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return str(value) if number else None
