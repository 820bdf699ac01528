"""The records of a buffer: their form, checked whenever they are read, and the files that they name.

A recipe keeps ``{"id", "messages": [{"role", "content"}, ...], "system", "tools", "images", "videos", "audios"}``, a
custom trainer ``{"row": ..., "images": [...], "labels": 3}`` (`rows`; the count of its label tokens may be missing). Media are names that `media.take_in` gave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from ..base.errors import Problem, RunStateError
from ..base.outside import MIB, OutsideError, kind_of, open_regular, parse_json
from .media import KINDS, MEDIA, SUFFIXES


#: How a file begins that only looks like a medium: a playlist, which names other files and addresses, or a program.
_STRANGE = (b"#EXTM3U", b"ffconcat", b"%!PS", b"\xc5\xd0\xd3\xc6", b"<?xml", b"<MPD", b"<smil", b"v=0")
ROLES = ("user", "assistant", "observation", "function")
LINE_LIMIT = 256 * MIB  # bytes of one record; rows of a custom trainer hold token ids
_NAME = re.compile(rf"{MEDIA}/[0-9a-f]{{32}}({'|'.join(map(re.escape, sorted(SUFFIXES)))})?")
_TEXTS = ("id", "system", "tools")
_FIX = "Restore the carry from a copy, or request it again from its sender."


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a buffer, checked.

    Args:
        path: ``samples.jsonl``.

    Raises:
        RunStateError: If it cannot be read, or a record is of no known form.
    """
    found = []
    try:
        for number, line in enumerate(_lines(path), start=1):
            try:
                record = parse_json(line)
            except ValueError as error:
                raise RunStateError(Problem(f"{path}, line {number}", f"cannot be read ({error}).", _FIX)) from error
            what = problem_of(record)
            if what is not None:
                raise RunStateError(Problem(f"{path}, line {number}", what, _FIX))
            found.append(record)
    except (OSError, OutsideError) as error:
        raise RunStateError(Problem(str(path), f"cannot be read ({error}).", _FIX)) from error
    return found


def _lines(path: Path) -> Iterator[bytes]:
    with open_regular(path, follow=False) as file:
        while line := file.readline(LINE_LIMIT + 1):
            if len(line) > LINE_LIMIT:
                raise OutsideError(f"a line is longer than {LINE_LIMIT // MIB} MiB")
            yield line


def problem_of(record: Any) -> str | None:
    """What is wrong with a record, or None."""
    if not isinstance(record, dict):
        return "is no record."
    lists: tuple[str, ...]
    if "row" in record:
        unknown, lists = set(record) - {"row", "images", "labels"}, ("images",)
        count = record.get("labels", 0)
        if type(count) is not int or count < 0:
            return "has no count under 'labels'."
        if not isinstance(record.get("images"), list):
            return "has a row without a list of pictures."
    else:
        unknown, lists = set(record) - {"messages", *_TEXTS, *KINDS}, KINDS
        wrong = [name for name in _TEXTS if not isinstance(record.get(name, ""), str)]
        if wrong:
            return f"has no text under {wrong[0]!r}."
        if not _is_chat(record.get("messages")):
            return "has no messages of a user and an assistant in turn."
    if unknown:
        return f"has the unknown field {min(unknown)!r}."
    if wrong := [kind for kind in lists if not isinstance(record.get(kind), list | NoneType)]:
        return f"has no list under {wrong[0]!r}."
    names = [name for kind in lists for name in _names(record.get(kind) or [])]
    bad = [name for name in names if not is_medium(name)]
    return f"names {bad[0]!r} as a medium, which is not a file of a buffer." if bad else None


def _is_chat(messages: Any) -> bool:
    """Pairs of turns, as the host trains on them."""
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        return False
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            return False
        if message["role"] not in ROLES or not isinstance(message["content"], str):
            return False
    return True


def _names(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    else:
        yield value


def is_medium(name: object) -> bool:
    """Whether a name is one that `media.take_in` gives."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def medium(folder: Path, name: object) -> Path:
    """The file of a medium: a regular file in the buffer's own folder ``media``, never one that a link leads to.

    Args:
        folder: The buffer.
        name: What the record names.

    Raises:
        RunStateError: If it is none, or a playlist or a program under the name of a medium.
    """
    if not is_medium(name):
        raise RunStateError(Problem(str(folder), f"a record names {name!r} as a medium.", _FIX))
    path = folder / str(name)
    try:
        kind = "a link" if (folder / MEDIA).is_symlink() else kind_of(path.lstat().st_mode)
    except OSError as error:
        raise RunStateError(Problem(str(path), "is missing.", _FIX)) from error
    if kind is not None:
        raise RunStateError(Problem(str(path), f"is {kind}, not a regular file.", _FIX))
    with open_regular(path, follow=False) as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(_STRANGE):
        raise RunStateError(Problem(str(path), "is not a picture, video or sound.", _FIX))
    return path


def as_files(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A record with the paths of its media in place of their names.

    Args:
        record: From `read`.
        folder: The buffer.
    """

    def walk(value: Any) -> Any:
        return [walk(item) for item in value] if isinstance(value, list) else str(medium(folder, value))

    return {key: walk(value) if key in KINDS and value else value for key, value in record.items()}
