"""Options of a multiple-choice record in the forms in which published test sets hold them."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from .scorers.options import parse_options


#: Names under which an object holds an option's text and its letter.
_TEXTS = ("text", "value", "content", "option", "answer")
_LABELS = ("label", "key", "letter", "id", "option_id")
_MARK = re.compile(r"^\s*(?:\(([A-Za-z]|\d{1,2})\)\s*|([A-Za-z])[.):、．]\s*|(\d{1,2})[.)]\s+)(?=\S)")
# A space behind the mark: "1.5 cm" is no first option.
_NUMBERED_LINE = re.compile(r"^[^\S\n]*\(?(\d{1,2})[.):][^\S\n]+(\S.*)$", re.MULTILINE)
_LIMIT = len(string.ascii_uppercase)
_KNOWN = "a list of texts, a mapping of letters to texts, or text such as 'A. red' on separate lines"


def read_options(value: Any) -> tuple[str, ...] | None:
    """The texts of the options in the order A, B, C, ...

    Understood are a list of texts, with or without letters in front (``["A. red", "B. blue"]``); a list of objects
    (``{"label": "A", "text": "red"}``); a mapping of letters or numbers to texts; the two lists of ARC (``{"text":
    [...], "label": [...]}``); each of them also as text in JSON or as a Python literal, as a CSV cell holds it; and
    text with one list of letters or numbers (``A. red`` or ``1. red`` on separate lines, ``A: red; B: blue`` in one
    line).

    Args:
        value: What the record holds.

    Returns:
        The texts; None where the record holds nothing (null, an empty text, an empty list).

    Raises:
        ValueError: The value has another form, letters are missing or out of order, or a text is missing; says what.
    """
    if isinstance(value, str):
        return _of_text(value) if value.strip() else None
    if value is None or (isinstance(value, Sequence | Mapping) and not len(value)):
        return None
    if isinstance(value, Mapping):
        texts = _of_mapping(value)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        texts = _of_list(value)
    else:
        raise ValueError(f"is {type(value).__name__}, not {_KNOWN}")
    if texts is not None and len(texts) > _LIMIT:
        raise ValueError(f"holds {len(texts)} options, more than there are letters")
    return texts


def _of_text(value: str) -> tuple[str, ...]:
    """Options written as text."""
    text = value.strip()
    if text[0] in "[{(":
        parsed = _literal(text)
        if isinstance(parsed, list | tuple | dict):
            if len(parsed) < 2:  # ['red' 'blue'], as numpy prints arrays, reads as one text
                raise ValueError(f"{_shown(value)} holds fewer than two options")
            found = read_options(parsed)
            if found is not None:
                return found
    found = parse_options(text) or _numbered(text)
    if found is None:
        raise ValueError(f"{_shown(value)} is not {_KNOWN}")
    return found


def _literal(text: str) -> Any:
    """The value of JSON or of a Python literal; None if the text is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # TypeError: {[1]: 2}
        return None


def _numbered(text: str) -> tuple[str, ...] | None:
    """``1. red`` and ``2. blue`` on separate lines, counted from 0 or 1."""
    found = _NUMBERED_LINE.findall(text)
    numbers = [int(number) for number, _ in found]
    if len(found) < 2 or numbers[0] not in (0, 1) or numbers != list(range(numbers[0], numbers[0] + len(found))):
        return None
    return tuple(option.strip() for _, option in found)


def _of_mapping(value: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """A mapping of letters or numbers to texts, or ARC's two lists."""
    for text_key in _TEXTS:
        listed = value.get(text_key)
        if isinstance(listed, Sequence) and not isinstance(listed, str):
            labels = next((value[key] for key in _LABELS if key in value), None)
            if labels is None:
                return _of_list(listed)
            if not isinstance(labels, Sequence) or len(labels) != len(listed):
                raise ValueError(f"has {len(listed)} texts, but not as many labels")
            return _ordered(list(zip(labels, listed, strict=True)))
    return _ordered(list(value.items()))


def _of_list(value: Sequence[Any]) -> tuple[str, ...]:
    """A list of texts, of texts with letters, or of objects."""
    if all(isinstance(entry, Mapping) for entry in value):
        return _of_objects(value)
    texts = [_text(entry, f"entry {number}") for number, entry in enumerate(value, start=1)]
    marks = [_MARK.match(text) for text in texts]
    if len(texts) > 1 and all(marks):
        labels = [match[1] or match[2] or match[3] for match in marks if match]
        if _positions(labels) == list(range(len(texts))):
            return tuple(text[match.end() :].strip() for text, match in zip(texts, marks, strict=True) if match)
    return tuple(texts)


def _of_objects(value: Sequence[Mapping[Any, Any]]) -> tuple[str, ...]:
    pairs = []
    for number, entry in enumerate(value, start=1):
        text = next((entry[key] for key in _TEXTS if key in entry), None)
        label = next((entry[key] for key in _LABELS if key in entry), None)
        if text is None and len(entry) == 1:  # [{"A": "red"}, {"B": "blue"}]
            label, text = next(iter(entry.items()))
        if text is None:
            raise ValueError(
                f"entry {number} has the keys {', '.join(map(repr, entry))}, none of which is {_TEXTS[0]!r}"
            )
        pairs.append((label, text))
    if all(label is None for label, _ in pairs):
        return tuple(_text(text, f"entry {number}") for number, (_, text) in enumerate(pairs, start=1))
    return _ordered(pairs)


def _ordered(pairs: Sequence[tuple[Any, Any]]) -> tuple[str, ...]:
    """The texts in the order of their letters or numbers; letters without a text at the end are left out."""
    positions = _positions([label for label, _ in pairs])
    if positions is None:
        shown = ", ".join(repr(label) for label, _ in pairs[:5])
        raise ValueError(f"its keys are {shown}, not the letters A, B, C, ... or numbers from 0 or 1")
    placed = sorted(zip(positions, (text for _, text in pairs), strict=True), key=lambda pair: pair[0])
    while placed and placed[-1][1] in (None, ""):  # tables fill the columns that a record does not have
        placed.pop()
    if [place for place, _ in placed] != list(range(len(placed))):
        raise ValueError("its letters or numbers have a gap or occur twice")
    return tuple(_text(text, f"option {string.ascii_uppercase[place]}") for place, text in placed if place < _LIMIT)


def _positions(labels: Sequence[Any]) -> list[int] | None:
    """The places that letters, or numbers from 0 or 1, stand for; None if they are neither."""
    names = [str(label).strip().strip("().:") for label in labels]
    if all(len(name) == 1 and name.isascii() and name.isalpha() for name in names):
        return [string.ascii_uppercase.index(name.upper()) for name in names]
    if all(name.isascii() and name.isdigit() for name in names):
        first = min(map(int, names))
        return [int(name) - first for name in names] if first in (0, 1) else None
    return None


def _text(value: Any, where: str) -> str:
    if value is None or isinstance(value, Mapping | list | tuple | bytes):
        raise ValueError(f"{where} is {value!r}, not a text")
    return str(value).strip() if isinstance(value, str) else str(value)


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")
