"""Where pictures stand in a question: one form for all converters, in training and in tests.

LLaVA's layout is loose about this: training records hold ``<image>`` in front of the question, on a line of its own
behind it, or in between; test records usually hold none. What a model is asked must have the form that it trains on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


IMAGE = "<image>"
#: What LLaMA-Factory takes for a picture, video or sound anywhere in a text.
PLACEHOLDERS = (IMAGE, "<video>", "<audio>")
_FRONT = re.compile(rf"(?:\s*{IMAGE})+\s*")


def in_front(question: str) -> str:
    """A question with the placeholders at its ends in one form: in front, each followed by a line break.

    A single placeholder on a line of its own behind the question goes in front, as the code of LLaVA puts it. One within
    a sentence ("compare ... with <image>") stays.
    """
    text = question.strip()
    head = text.removesuffix(IMAGE)
    if head != text and IMAGE not in head and "\n" in head[len(head.rstrip()) :]:
        text = IMAGE + head.rstrip()
    return _with_leading(text, _leading(text))


def placed(questions: Sequence[str], pictures: int, unused: int = 0) -> list[str] | None:
    """The questions of a record with one placeholder per picture.

    As many placeholders as pictures stay where they are (in the form of `in_front`). If the record names more pictures
    than are used, the placeholders of the others are left out. Without placeholders, or with another number of them in
    front of the first question and none elsewhere, the pictures go in front.

    Args:
        questions: The questions, with the placeholders of the raw record.
        pictures: Pictures that are used.
        unused: Pictures that the record names behind those.

    Returns:
        The questions; None if it cannot be told which placeholder is which picture.
    """
    texts = [in_front(question) for question in questions]
    total = sum(text.count(IMAGE) for text in texts)
    if unused and total == pictures + unused:
        texts, total = _first(texts, pictures), pictures
    if total == pictures:
        return texts
    if pictures == 0 or total != _leading(texts[0]):
        return None
    return [_with_leading(texts[0], pictures), *texts[1:]]


def escape(text: str, kept: tuple[str, ...] = ()) -> tuple[str, int]:
    """Write literal placeholders so that they stay text: ``<image>`` becomes ``< image >``.

    Args:
        text: The text.
        kept: Placeholders that are meant as such.

    Returns:
        The text, and how many were escaped.
    """
    count = 0
    for word in PLACEHOLDERS:
        if word not in kept and word in text:
            count += text.count(word)
            text = text.replace(word, f"< {word[1:-1]} >")
    return text, count


def _leading(text: str) -> int:
    """Number of placeholders that a text begins with."""
    found = _FRONT.match(text)
    return found[0].count(IMAGE) if found else 0


def _with_leading(text: str, count: int) -> str:
    """The text with so many placeholders in front in place of those that it begins with."""
    found = _FRONT.match(text)
    return (f"{IMAGE}\n" * count + (text[found.end() :] if found else text)).rstrip()


def _first(texts: Sequence[str], count: int) -> list[str]:
    """The texts with their first placeholders only."""
    found = []
    for text in texts:
        head, *rest = text.split(IMAGE)
        for part in rest:
            head += (IMAGE if count > 0 else "") + part
            count -= 1
        found.append(in_front(head))
    return found
