"""A record is checked, its pictures are stored, and it becomes what LLaMA-Factory reads; or it becomes a drop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .contract import Drop, Picture, Record
from .images import BadPicture
from .placeholders import IMAGE, escape, placed


class _BadText(Exception):
    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(reason)


@dataclass
class Finished:
    """A record as it is written.

    Attributes:
        value: The JSON object.
        escaped: Literal placeholders that were escaped in its texts.
    """

    value: dict[str, Any]
    escaped: int


def finish(record: Record, columns: Mapping[str, type], store: Callable[[Picture], str]) -> Finished | Drop:
    """Check a record and store its pictures.

    Args:
        record: The record.
        columns: The converter's extra columns.
        store: Stores one picture and gives its name, or raises `BadPicture`.

    Returns:
        The record to write, or a drop that says why not.
    """
    try:
        _unicode(record.id, "id")
        turns = [(_text(turn.question, "question"), _text(turn.answer, "answer")) for turn in record.turns]
        extra = {name: _extra(name, kind, record.extra.get(name)) for name, kind in columns.items()}
    except _BadText as error:
        return Drop(record.id, error.reason, error.detail)
    if not turns:
        return Drop(record.id, "not a conversation", "it has no turns")
    questions, escaped = [question for question, _ in turns], 0
    if record.placeholders:
        found = placed(questions, len(record.pictures), record.unused)
        if found is None:
            asked = sum(question.count(IMAGE) for question in questions)
            detail = f"{asked} placeholders, {len(record.pictures) + record.unused} pictures"
            return Drop(record.id, "<image> does not match pictures", detail)
        questions = found
    conversations: list[dict[str, str]] = []
    for number, (question, (_, answer)) in enumerate(zip(questions, turns, strict=True)):
        question, count = escape(question, (IMAGE,) if record.placeholders else ())
        answer, more = escape(answer)
        escaped += count + more
        if number == 0 and not record.placeholders:
            question = f"{IMAGE}\n" * len(record.pictures) + question
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    try:
        images = [store(picture) for picture in record.pictures]
    except BadPicture as error:
        return Drop(record.id, error.reason, str(error))
    return Finished({"id": record.id, "conversations": conversations, "images": images, **extra}, escaped)


def _text(value: object, what: str) -> str:
    """Text without spaces at its ends; numbers are written out."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise _BadText(f"{what} is missing")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _BadText(f"{what} is not text", f"{type(value).__name__}")
    text = str(value).strip()
    if not text:
        raise _BadText(f"{what} is empty")
    _unicode(text, what)
    return text


def _unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _BadText(f"{what} is not valid Unicode", error.reason) from error


def _extra(name: str, kind: type, value: object) -> str | list[str]:
    """One type per column: the host's JSON reader wants the same in every record."""
    if kind is list:
        items = value if isinstance(value, list | tuple) else []
        texts = [str(item) for item in items]
        for text in texts:
            _unicode(text, f"column {name}")
        return texts
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    _unicode(str(value), f"column {name}")
    return str(value)
