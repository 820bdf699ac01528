"""Single fields of the published records: pictures, answers, questions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ....evaluation.annotations import most_frequent


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


def answer_of(value: object, separator: str | None = None, *, annotators: bool = False) -> tuple[object, list[str]]:
    """The reference answer of a test item, and all right answers if the record lists several.

    Args:
        value: The field.
        separator: If given, a list is one answer in pieces (the states of a MapQA question), joined by this.
        annotators: Whether a list holds the answers of several annotators (VQA), whose majority is the reference, of
            equally frequent ones the first. Otherwise it holds alternatives (OCRBench, captions), and the first one is.
    """
    if not isinstance(value, list):
        return as_text(value), []
    texts = [text for text in map(as_text, value) if isinstance(text, str) and text.strip()]
    if not texts:
        return None, []
    if separator is not None:
        return separator.join(texts), []
    if annotators:  # all of them are counted, also those who wrote nothing
        return most_frequent(texts), [text for text in map(as_text, value) if isinstance(text, str)]
    return texts[0], texts
