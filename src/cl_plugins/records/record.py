"""What all records share: reading with one clear error, a format number, and a checksum over the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..base import outside
from ..base.errors import DataError, Problem, RunStateError
from ..base.files import write_bytes
from ..base.words import restore


CHECKSUM = "checksum"
#: Larger files are no records; a longer one is refused before it fills the memory.
MAX_BYTES = 512 * 1024**2
MAX_PROBLEMS = 10
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_SHOWN = 80  # characters of a wrong value in a message

Count = Annotated[int, Field(ge=0)]
Score = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A part of a record; unknown fields are refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Record(BaseModel):
    """A JSON object with a format number and, from format 2 on, a checksum over its content.

    The checksum finds damage and manual edits. It is no signature: who can write the file can write the checksum.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    FORMAT: ClassVar[int] = 2
    OLDER: ClassVar[tuple[int, ...]] = (1,)
    FIX: ClassVar[str] = "Restore it from a copy."
    ERROR: ClassVar[type[RunStateError] | type[DataError]] = RunStateError

    format: int

    @classmethod
    def fix(cls) -> str:
        """What to do about a damaged record."""
        return cls.FIX

    def faults(self, where: str) -> list[Problem]:
        """What is wrong with a record whose fields each have the right type.

        Args:
            where: File name for messages.
        """
        return []

    @classmethod
    def label(cls, place: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
        """A field's name as messages show it: ``'tasks[0]'``."""
        text = ""
        for part in place:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
        return f"'{shown(text)}'"

    @classmethod
    def problems(cls, data: object, where: str) -> list[Problem]:
        """Everything that is wrong with a parsed JSON value.

        Args:
            data: The value.
            where: File name for messages.
        """
        found = cls.examined(data, where)
        return found if isinstance(found, list) else []

    @classmethod
    def examined(cls, data: object, where: str, previous: str = "") -> Self | list[Problem]:
        """A parsed JSON value as a record, or everything that is wrong with it.

        Args:
            data: The value.
            where: File name for messages.
            previous: The checksum of the record before it, for records that form a chain.
        """
        if not isinstance(data, dict):
            return [Problem(where, f"is {_kind(data)}, not a JSON object.", cls.fix())]
        number = data.get("format")
        if isinstance(number, bool) or number not in (cls.FORMAT, *cls.OLDER):
            known = " and ".join(map(str, sorted((cls.FORMAT, *cls.OLDER))))
            what = f"format is {shown(repr(number))}, this version reads {known}."
            newer = isinstance(number, int) and not isinstance(number, bool) and number > cls.FORMAT
            return [Problem(where, what, "Update cl-plugins." if newer else cls.fix())]
        found = cls.typed(data, where)
        if isinstance(found, list):
            return few(found)
        sealed = number >= 2 or CHECKSUM in data
        changed = checksum_problems(data, where, cls.fix(), previous) if sealed else []
        return few([*found.faults(where), *changed]) or found

    @classmethod
    def typed(cls, data: dict[str, Any], where: str) -> Self | list[Problem]:
        """A JSON object as a record if each of its fields has the right type, or what is wrong with them."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            return [_problem(cls, e, data, where) for e in error.errors(include_url=False)]
        except RecursionError:
            return [Problem(where, "is nested too deeply.", cls.fix())]

    @classmethod
    def of(cls, data: object, where: str) -> Self:
        """A parsed JSON value as a record.

        Args:
            data: The value.
            where: File name for messages.

        Raises:
            RunStateError: With everything that is wrong (a `DataError` for records of tests and scores).
        """
        found = cls.examined(data, where)
        if isinstance(found, list):
            raise cls.ERROR(found)
        return found

    @classmethod
    def parse(cls, raw: bytes | str, where: str) -> Self:
        """The text of a file as a record; raises as `of` does."""
        return cls.of(parse_json(raw, where, cls.fix(), cls.ERROR), where)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Args:
            path: The file.

        Raises:
            RunStateError: If it is missing, no regular file, or not such a record (a `DataError` for records of tests and
                scores).
        """
        return cls.parse(read_file(path, cls.fix(), cls.ERROR), str(path))

    @classmethod
    def content(cls, value: Mapping[str, Any]) -> dict[str, Any]:
        """The content of the file: the value with its format number and checksum.

        Args:
            value: Plain JSON types.

        Raises:
            RunStateError: If the reader would refuse it.
        """
        data = json.loads(json.dumps({**value, "format": cls.FORMAT}))
        data = {"format": data.pop("format"), **{k: v for k, v in data.items() if k != CHECKSUM}}
        found = cls.typed(data, cls.__name__)
        problems = found if isinstance(found, list) else found.faults(cls.__name__)
        if problems:
            raise cls.ERROR(few(problems))
        data[CHECKSUM] = checksum(data)
        return data

    @classmethod
    def write(cls, path: Path, value: Mapping[str, Any], indent: int = 1) -> None:
        """Write a file, all or nothing.

        Args:
            path: The file.
            value: Plain JSON types, without format number and checksum.
            indent: As in `json.dumps`.
        """
        write_bytes(path, cls.text(value, indent).encode())

    @classmethod
    def text(cls, value: Mapping[str, Any], indent: int | None = 1) -> str:
        """The text of the file, as `write` writes it."""
        return dump(cls.content(value), indent) + ("\n" if indent is not None else "")


class RunFileRecord(Record):
    """A file of a run that no other file can be made of again: it comes from a copy, or the run begins again."""

    @classmethod
    def fix(cls) -> str:
        """See `Record.fix`; in the words of the run's host."""
        return restore()


def dump(value: Any, indent: int | None = None) -> str:
    """JSON that people can read in any script; escaped only where UTF-8 cannot hold it (a lone surrogate).

    Args:
        value: Plain JSON types.
        indent: Spaces per level, as in `json.dumps`, but a list of numbers or words is one line.
    """
    text = _laid_out(value, indent, False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _laid_out(value, indent, True)
    return text


def _laid_out(value: Any, indent: int | None, escaped: bool, level: int = 1) -> str:
    encode = _encoder(escaped, ", ").encode
    if indent is None or not value or not isinstance(value, dict | list | tuple):
        return encode(value)
    entries = value.values() if isinstance(value, dict) else value
    nested = any(isinstance(entry, dict | list | tuple) for entry in entries)
    if not nested and not isinstance(value, dict):
        return encode(value)
    space, end = "\n" + " " * (indent * level), "\n" + " " * (indent * (level - 1))
    if not nested:  # by the encoder in C, at once
        text = _encoder(escaped, f",{space}").encode(value)
        return f"{{{space}{text[1:-1]}{end}}}"
    parts = [_laid_out(entry, indent, escaped, level + 1) for entry in entries]
    if not isinstance(value, dict):
        return f"[{space}{f',{space}'.join(parts)}{end}]"
    keys = [encode({key: 0})[1:-2] for key in value]
    return f"{{{space}{f',{space}'.join(map(str.__add__, keys, parts))}{end}}}"


@cache
def _encoder(escaped: bool, between: str) -> json.JSONEncoder:
    """What `json.dumps` would make anew in every call.

    Args:
        escaped: Whether characters outside of ASCII are escaped.
        between: What is written between two entries.
    """
    return json.JSONEncoder(ensure_ascii=escaped, separators=(between, ": "))


def checksum(data: Mapping[str, Any], previous: str = "") -> str:
    """SHA-256 over the content of a record, independent of the order of keys and of white space.

    Args:
        data: Plain JSON types; the field ``checksum`` itself is left out.
        previous: The checksum of the record before it, for records that form a chain.
    """
    content = {key: value for key, value in data.items() if key != CHECKSUM}
    return hashlib.sha256(f"{previous}{_CANONICAL.encode(content)}".encode()).hexdigest()


def checksum_problems(data: Mapping[str, Any], where: str, fix: str, previous: str = "") -> list[Problem]:
    """The problem of a record whose content is not what was written."""
    if data.get(CHECKSUM) == checksum(data, previous):
        return []
    return [Problem(where, "was changed after it was written: its checksum differs.", fix)]


def read_file(
    path: Path,
    fix: str = Record.FIX,
    error: type[RunStateError] | type[DataError] = RunStateError,
    *,
    links: bool = False,
) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file.
        fix: For messages.
        error: What is raised.
        links: Whether a symbolic link is followed, as for files that the user names.

    Raises:
        RunStateError: If it is missing, a link, a pipe, a device, or too large.
    """
    try:
        return outside.read_bytes(path, MAX_BYTES, follow=links)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(Problem(str(path), f"cannot be read ({reason}).", fix)) from problem


def parse_json(
    raw: bytes | str, where: str, fix: str, error: type[RunStateError] | type[DataError] = RunStateError
) -> Any:
    """Parse JSON in UTF-8.

    Raises:
        RunStateError: If it is none, is nested too deeply, or holds a number with thousands of digits.
    """
    try:
        return outside.parse_json(raw if isinstance(raw, str) else raw.decode("utf-8"))
    except ValueError as problem:
        raise error(Problem(where, f"is not JSON in UTF-8 ({shown(str(problem), 200)}).", fix)) from problem


def few(problems: list[Problem]) -> list[Problem]:
    """The first `MAX_PROBLEMS` problems, and a last one that counts the rest."""
    rest = len(problems) - MAX_PROBLEMS
    if rest <= 0:
        return problems
    last = problems[-1]
    return [*problems[:MAX_PROBLEMS], Problem(last.where, f"the last of {rest} more problems: {last.what}", last.fix)]


def shown(text: str, limit: int = _SHOWN) -> str:
    """A text from a file as a message may show it: short, and without control characters."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _problem(cls: type[Record], error: Any, data: Mapping[str, Any], where: str) -> Problem:
    """One finding of pydantic in the words of the package."""
    place = tuple(part for part in error["loc"] if part != "[key]")
    label = cls.label(place, data)
    if error["type"] == "missing":
        return Problem(where, f"{label} is missing.", cls.fix())
    if error["type"] == "extra_forbidden":
        return Problem(where, f"{label} is not a known field.", cls.fix())
    rule = error["msg"].removeprefix("Value error, ").removesuffix(" after validation")
    for start in ("Input should", "List should", "String should", "Dictionary should", "Value should"):
        rule = rule.replace(start, "it should")
    return Problem(where, f"{label} is {_value(error['input'])}: {rule}.", cls.fix())


def _value(value: Any) -> str:
    try:
        return shown(repr(value))
    except (ValueError, RecursionError):  # an integer with thousands of digits, or nested too deeply
        return type(value).__name__
