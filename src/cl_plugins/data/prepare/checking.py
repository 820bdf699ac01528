"""A record is checked, its pictures are stored, and it becomes what LLaMA-Factory reads; or it becomes a drop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .contract import Drop, Picture, Record
from .images import BadPicture


IMAGE = "<image>"
#: What LLaMA-Factory takes for a picture, video or sound anywhere in a text.
PLACEHOLDERS = (IMAGE, "<video>", "<audio>")


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
    escaped = 0
    conversations: list[dict[str, str]] = []
    asked = sum(question.count(IMAGE) for question, _ in turns) if record.placeholders else 0
    wanted = len(record.pictures)
    if asked not in (0, wanted):
        return Drop(record.id, "<image> does not match pictures", f"{asked} placeholders, {wanted} pictures")
    for number, (question, answer) in enumerate(turns):
        kept = (IMAGE,) if asked else ()
        question, count = escape(question, kept)
        answer, more = escape(answer)
        escaped += count + more
        if number == 0 and not asked and wanted:
            question = f"{IMAGE}\n" * wanted + question
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    try:
        images = [store(picture) for picture in record.pictures]
    except BadPicture as error:
        return Drop(record.id, error.reason, str(error))
    return Finished({"id": record.id, "conversations": conversations, "images": images, **extra}, escaped)


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
