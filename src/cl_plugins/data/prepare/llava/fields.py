"""Single fields of the published records: pictures, answers, questions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ....evaluation.right_answers import read_listed


def picture_names(raw: Mapping[str, Any]) -> list[str] | None:
    """The names of a record's pictures, in order.

    Args:
        raw: The record; ``image`` (or ``images``) may be a text, a list of texts, or missing.

    Returns:
        The names, which may be none; None if the field holds something else.
    """
    value = raw.get("image", raw.get("images"))
    if value is None or value == "":
        return []
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        return None
    return names


def as_text(value: object) -> object:
    """Numbers as text; everything else as it is, for the framework to judge. A float that is no number is no answer."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, int) else value


def answer_of(value: object, question: object = "", *, first: bool = False) -> tuple[object, list[str]]:
    """The reference answer of a test item, and all right answers if the record lists several (`read_listed`).

    Args:
        value: The field.
        question: The question.
        first: Whether the first entry of a list is the reference (captions), however often others occur.
    """
    if not isinstance(value, list):
        return as_text(value), []
    reference, several = read_listed(value, question if isinstance(question, str) else "")
    said = [text for text in several if text.strip()]
    return (said[0], said) if first and said else (reference, several)
