"""Single fields of the published records: pictures, answers, questions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ....evaluation.right_answers import read_listed


IMAGE = "<image>"


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


def answer_of(value: object, question: object = "") -> tuple[object, list[str]]:
    """The reference answer of a test item, and all right answers if the record lists alternatives (`read_listed`).

    Args:
        value: The field.
        question: The question.
    """
    if not isinstance(value, list):
        return as_text(value), []
    return read_listed(value, question if isinstance(question, str) else "")


def without_leading_image(question: object) -> object:
    """A test question without the placeholder that some files put in front of (or behind) it.

    One anywhere else is part of the text, and the framework escapes it.
    """
    if not isinstance(question, str):
        return question
    text = question.strip()
    if text.startswith(IMAGE):
        return text.removeprefix(IMAGE).lstrip()
    return text.removesuffix(IMAGE).rstrip() if text.endswith(IMAGE) else question
