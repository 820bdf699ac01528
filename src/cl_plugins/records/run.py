"""``run.json`` and ``journal.jsonl``: what a run is, and which of its steps are finished."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import ConfigDict, Field, field_validator

from ..base.errors import Problem, RunStateError
from ..base.files import append_line, sync_file, write_bytes
from ..base.words import restore
from .files import FileRecord
from .names import RunFile, TaskName
from .record import (
    CHECKSUM,
    Count,
    Part,
    RunFileRecord,
    checksum,
    dump,
    parse_json,
    read_file,
)


JOURNAL = "journal.jsonl"
#: How much of the journal is known to be on the disk.
MARK = ".journal.json"
RUN = "run.json"
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_STEP = r"^(?:finish|train:[^:\s]+(?::[^:\s]+)?|consolidate:[^:\s]+|(?:evaluate|probe):[^:\s]+:[^:\s]+|replay-(?:delete|purge):[0-9a-f]{1,32})$"


class _Open(Part):
    """A part that other versions may extend."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class RunTask(_Open):
    """One task of the stream, as ``run.json`` holds it."""

    name: TaskName
    train: list[str] = []
    test: list[str] = []
    overrides: dict[str, Any] = {}
    peer_scorer: str | None = None


class RunStream(_Open):
    """The stream, as ``run.json`` holds it."""

    name: str
    tasks: list[RunTask]


class RunMethod(_Open):
    """``cl.method`` of a resolved recipe."""

    name: str


class RunBlock(_Open):
    """The ``cl`` block of a resolved recipe, as far as a comparison looks into it."""

    method: RunMethod | str | None = None
    replay: dict[str, Any] | None = None
    task_overrides: dict[str, Any] | None = None
    order: list[str] | None = None
    carry_from: str | None = None


class RunRecipe(_Open):
    """The resolved recipe: the host's keys and the ``cl`` block."""

    cl: RunBlock


class Failure(Part):
    """Which training failed at the last start, and why."""

    step: str
    error: str


class Origin(Part):
    """The carry that a run began with.

    Attributes:
        sha256: From `CarryRecord.identity`.
        tasks: The tasks in it.
    """

    sha256: str
    tasks: list[TaskName]


class Imported(Part):
    """The files that scores or weights were imported from.

    Attributes:
        file: Its name; of several files all names.
        sha256: Its hash; of several files that of their hashes.
        tasks: Of weights: the tasks whose own checkpoint was given.
        files: Of weights: task and file -> hash.
    """

    file: str
    sha256: str
    tasks: list[TaskName] | None = None
    files: dict[str, str] | None = None


class RunRecord(RunFileRecord):
    """``run.json``.

    Attributes:
        recipe: The resolved recipe.
        stream: The stream.
        method: Name of the method.
        base: Fingerprint of the base.
        data: Data set -> hashes of its files.
        method_options: All options of the method.
        method_defaults: Their defaults, so that a comparison can name the options that are not; absent in older runs.
        numbers: Training (task, or task and phase) -> what the method has measured there.
        validation: Training -> loss on its validation set, the step it is of, and the number of steps.
        failed: The training that failed at the last start.
        began_with: The carry that ``carry_from`` named.
        imported: Where scores or weights are those of another program: the files that hold them.
        files: Where the directory has no journal (predictions that were scored again): the files it consists of.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    recipe: RunRecipe
    stream: RunStream
    method: str
    base: dict[str, Any] = {}
    data: dict[str, Any] = {}
    seed: int | None = None
    method_options: dict[str, Any] = {}
    method_defaults: dict[str, Any] | None = None
    notes: list[str] = []
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    peak_memory_bytes: Count | None = None
    seconds: Seconds | None = None
    sizes: dict[str, Count] = {}
    merge_error: dict[str, Any] | None = None
    numbers: dict[str, dict[str, float | int]] = {}
    validation: dict[str, dict[str, float | int]] = {}
    failed: Failure | None = None
    began_with: Origin | None = None
    imported: Imported | None = None
    files: dict[RunFile, FileRecord] | None = None


def read_run(root: Path) -> dict[str, Any]:
    """``run.json`` of a run as plain JSON types, without its checksum.

    Raises:
        RunStateError: If there is none, or it is damaged.
    """
    path = root / RUN
    raw = read_file(path, restore())
    data: dict[str, Any] = parse_json(raw, str(path), restore())
    RunRecord.of(data, str(path))
    data.pop(CHECKSUM, None)
    return data


def write_run(root: Path, value: Mapping[str, Any]) -> None:
    """Replace ``run.json``.

    Args:
        root: The run's directory.
        value: Its content; format number and checksum are added.
    """
    RunRecord.write(root / RUN, value, indent=2)


class JournalLine(RunFileRecord):
    """One finished step.

    Attributes:
        step: Its key, e.g. ``train:path``.
        seconds: How long it took.
        artefacts: Relative file name -> hash, size and time.
        time: When it was finished (ISO 8601, UTC).
        details: Anything worth keeping: steps, loss, merge error.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    format: int = 1  # lines of format 1 did not say so
    step: Annotated[str, Field(pattern=_STEP)]
    seconds: Seconds
    artefacts: dict[RunFile, FileRecord]
    time: str
    details: dict[str, Any] = {}
    checksum: str = ""

    @field_validator("time")
    @classmethod
    def _time(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value

    @classmethod
    def examined(cls, data: object, where: str, previous: str = "") -> Self | list[Problem]:
        """A line, or everything that is wrong with it; only from format 2 on the lines form a chain."""
        if isinstance(data, dict) and "format" not in data and CHECKSUM not in data:
            data = {"format": 1, **data}
        chained = isinstance(data, dict) and data.get("format") == cls.FORMAT
        return super().examined(data, where, previous if chained else "")


class Line(NamedTuple):
    """A line of the journal as it is written.

    Attributes:
        text: The line without its end.
        checksum: Its checksum, which the next line's covers.
    """

    text: str
    checksum: str


class JournalFile(NamedTuple):
    """A journal that was read.

    Attributes:
        steps: The finished steps, in order.
        lines: The same as lines of the file.
        intact: Whether the file consists of exactly these lines, so that another one can be added at its end.
    """

    steps: list[JournalLine]
    lines: list[Line]
    intact: bool


def read_journal(root: Path) -> JournalFile:
    """The finished steps of a run; none if there is no journal.

    From format 2 on the lines form a chain: the checksum of each covers that of the line before it, so that a line that
    was changed, moved or taken out of the middle is found. A line that a kill has torn while it was added does not count.

    Raises:
        RunStateError: Naming file and line of everything that is wrong.
    """
    path = root / JOURNAL
    if not path.exists() and not path.is_symlink():
        return JournalFile([], [], intact=False)
    found: dict[str, JournalLine] = {}
    lines: list[Line] = []
    previous = ""
    raw = read_file(path, restore())
    whole = _without_torn(raw, path)
    for number, text in enumerate(whole.removesuffix(b"\n").split(b"\n"), start=1):
        where = f"{path}:{number}"
        data = parse_json(text, where, restore())
        line = JournalLine.examined(data, where, previous)
        if isinstance(line, list):
            raise RunStateError(line)
        if line.step in found:
            raise RunStateError(Problem(where, f"names the step {line.step!r} again.", restore()))
        found[line.step], previous = line, line.checksum
        lines.append(Line(text.decode(), previous))
    steps = list(found.values())
    intact = whole == raw and raw.endswith(b"\n") and all(step.format == JournalLine.FORMAT for step in steps)
    return JournalFile(steps, lines, intact)


def _without_torn(raw: bytes, path: Path) -> bytes:
    """The journal without the lines at its end that were torn while they were added.

    A kill leaves the beginning of a line, a power failure also zeros up to the end of the file. Both come only after what
    `MARK` says; a torn line before that is damage, which the reader of the line reports.
    """
    start = raw.rfind(b"\n", 0, raw.find(b"\0") if b"\0" in raw else len(raw)) + 1
    if raw.endswith(b"\n") or not start or _is_json(raw[start:]):
        return raw
    try:
        mark = JournalMark.read(path.with_name(MARK)).bytes
    except RunStateError:
        return raw
    return raw[:start] if start >= mark and raw[mark - 1 : mark] == b"\n" else raw


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line, JOURNAL, "")
    except RunStateError:
        return False
    return True


class JournalMark(RunFileRecord):
    """``.journal.json``.

    Attributes:
        bytes: The first bytes of the journal, which were on the disk before any further line was added.
    """

    bytes: Count


def write_journal(root: Path, lines: Iterable[Mapping[str, Any]], before: Sequence[Line] = ()) -> list[Line]:
    """Replace the journal.

    Args:
        root: The run's directory.
        lines: ``step``, ``seconds``, ``artefacts``, ``time`` and ``details`` of each step.
        before: Lines that stay in front of them, from an earlier call.

    Returns:
        All lines.
    """
    found = list(before)
    for line in lines:
        found.append(_line(line, found))
    write_bytes(root / JOURNAL, "".join(f"{line.text}\n" for line in found).encode())
    return found


def add_to_journal(root: Path, line: Mapping[str, Any], before: Sequence[Line]) -> Line:
    """Add a line to the end of the journal, without writing the others again; `sync_journal` makes it durable.

    Args:
        root: The run's directory, whose `MARK` is at the end of what was written as a whole.
        line: As in `write_journal`.
        before: The lines in the file.

    Returns:
        The line.
    """
    new = _line(line, before)
    append_line(root / JOURNAL, new.text, sync=False)
    return new


def sync_journal(root: Path) -> None:
    """Flush lines that were added to the disk."""
    sync_file(root / JOURNAL)


def mark_journal(root: Path, size: int) -> None:
    """Note that so many bytes of the journal are on the disk.

    Args:
        root: The run's directory.
        size: The number of bytes, up to the end of a line.
    """
    JournalMark.write(root / MARK, {"bytes": size})


def _line(line: Mapping[str, Any], before: Sequence[Line]) -> Line:
    text = dump({"format": JournalLine.FORMAT, **line})
    seal = checksum(json.loads(text), before[-1].checksum if before else "")
    return Line(f'{text[:-1]}, "{CHECKSUM}": "{seal}"}}', seal)
