"""The journal: one line per finished step. Steps in it are never repeated."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..base.errors import Problem, RunStateError
from ..records.files import FileRecord, file_problem
from ..records.run import JOURNAL, add_to_journal, mark_journal, read_journal, sync_journal, write_journal


SYNC_SECONDS = 1.0
_TESTS = ("evaluate:", "probe:")
_FIX = "Restore the file from a copy, or start again with `cl.restart: true`."


@dataclass(frozen=True)
class Entry:
    """One finished step.

    Attributes:
        step: Its key, e.g. ``train:path``.
        seconds: How long it took.
        artefacts: Relative file name -> {"sha256", "bytes", "mtime_ns"}.
        time: When it was finished (ISO 8601, UTC).
        details: Anything worth keeping: steps, loss, merge error.
    """

    step: str
    seconds: float
    artefacts: dict[str, dict[str, Any]]
    time: str
    details: dict[str, Any] = field(default_factory=dict)


class Journal:
    """Reads and extends ``journal.jsonl``.

    A step adds its line to the end of the file. The line is on the disk when `finish` returns, but for the lines of tests: they
    are flushed together, at most `SYNC_SECONDS` later, since a test can be done again and nothing is removed after it.

    Args:
        root: The output directory.

    Raises:
        RunStateError: If a line cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = str(root / JOURNAL)
        self._entries: dict[str, Entry] = {}
        self._file = self._status()
        steps, lines, intact = read_journal(root)
        for line in steps:
            artefacts = {name: record.plain() for name, record in line.artefacts.items()}
            self._entries[line.step] = Entry(line.step, line.seconds, artefacts, line.time, line.details)
        # The file as this object knows it; without lines it is written anew at the next step.
        self._lines, self._written = (lines, list(self._entries.values())) if intact else ([], [])
        self._as_read = True  # whether the entries are still those of the file
        self._marked = False
        self._synced = time.monotonic()

    def __contains__(self, step: str) -> bool:
        """Whether the step is finished."""
        return step in self._entries

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Step -> entry, in the order of the file; changed by `add`, `remove` and `forget`."""
        return MappingProxyType(self._entries)

    def finish(self, step: str, seconds: float, artefacts: dict[str, dict[str, Any]], **details: Any) -> None:
        """Write that a step is finished. Its artefacts must be on disk already."""
        follows = self._as_read and step not in self._entries and self._as_written()
        self.add(step, seconds, artefacts, **details)
        if not follows:
            self.rewrite()
            return
        entry = self._entries[step]
        if not self._marked:
            self._mark()
        self._lines.append(add_to_journal(self._root, vars(entry), self._lines))
        self._written.append(entry)
        self._as_read = True
        self._file = self._status()
        if not step.startswith(_TESTS):
            self._mark()
        elif time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush the lines of tests to the disk."""
        if self._as_written():
            sync_journal(self._root)
        self._synced = time.monotonic()

    def _mark(self) -> None:
        """Flush the file, and note that it is on the disk, so that a line that is torn from now on is known for one."""
        sync_journal(self._root)
        mark_journal(self._root, self._file.st_size if self._file is not None else 0)
        self._marked, self._synced = True, time.monotonic()

    def _as_written(self) -> bool:
        """Whether the file is the one that this object has written, and nobody has another name for it."""
        now, then = self._status(), self._file
        if now is None or then is None or not self._lines:
            return False
        return now.st_nlink == 1 and (now.st_dev, now.st_ino, now.st_size) == (then.st_dev, then.st_ino, then.st_size)

    def _status(self) -> os.stat_result | None:
        try:
            return os.lstat(self._name)
        except OSError:
            return None

    def add(self, step: str, seconds: float, artefacts: dict[str, dict[str, Any]], **details: Any) -> None:
        """Note in memory that a step is finished; `rewrite` makes it durable."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._entries[step] = Entry(step, round(seconds, 3), artefacts, now, details)
        self._as_read = False

    def remove(self, step: str) -> None:
        """Note in memory that a step is not finished; `rewrite` makes it durable."""
        del self._entries[step]
        self._as_read = False

    def rewrite(self) -> None:
        """Rewrite the file from the entries in memory; lines that stay as they were are not made again."""
        entries = list(self._entries.values())
        pairs = enumerate(zip(entries, self._written, strict=False))
        kept = next((number for number, (new, old) in pairs if new is not old), min(len(entries), len(self._written)))
        self._marked = False
        self._lines = write_journal(self._root, map(vars, entries[kept:]), self._lines[:kept])
        self._written, self._file, self._as_read = entries, self._status(), True
        self._mark()

    def forget(self, name: str) -> None:
        """Drop a file from all entries, because it was deleted on purpose; `rewrite` makes it durable."""
        for step, entry in list(self._entries.items()):
            if name in entry.artefacts:
                kept = {k: v for k, v in entry.artefacts.items() if k != name}
                self._entries[step] = Entry(entry.step, entry.seconds, kept, entry.time, entry.details)
                self._as_read = False

    def latest(self, folder: str = "") -> dict[str, FileRecord]:
        """The latest record of every file that a step has written.

        Args:
            folder: Start of the names that are wanted.
        """
        found: dict[str, dict[str, Any]] = {}
        of_tests = not folder.startswith("tasks/")  # nearly all entries of a long stream are of tests
        for step, entry in self._entries.items():
            if not of_tests and step.startswith(_TESTS):
                continue
            for name, record in entry.artefacts.items():
                if name.startswith(folder):
                    found[name] = record
        return {name: FileRecord.model_validate(record) for name, record in found.items()}

    def damaged(self, *, full: bool = False) -> list[Problem]:
        """Artefacts that are missing or differ from their record.

        JSON files are compared by their hash. Tensors are compared by size and time unless ``full`` is set; whoever uses
        them compares the hash then (`verify`).

        Args:
            full: Compare all hashes.
        """
        found = [self._problem(name, record, full) for name, record in self.latest().items()]
        return [problem for problem in found if problem is not None]

    def _problem(self, name: str, record: FileRecord, full: bool) -> Problem | None:
        path = self._root / name
        if not (path.exists() or path.is_symlink()):
            return Problem(str(path), "is missing, although its step is finished.", _FIX)
        if path.is_file() and not path.is_symlink() and not full and path.suffix not in (".json", ".jsonl"):
            status = path.stat()
            if status.st_size == record.bytes and status.st_mtime_ns == record.mtime_ns:
                return None
        return file_problem(self._root, name, record, _FIX, JOURNAL)

    def verify(self, folder: Path) -> None:
        """Compare the files of finished steps in a folder with their hashes, before they are used.

        Args:
            folder: Inside the run.

        Raises:
            RunStateError: Naming every file that is missing or differs.
        """
        own = str(folder.relative_to(self._root))
        found = [self._problem(name, record, full=True) for name, record in self.latest(f"{own}/").items()]
        if problems := [problem for problem in found if problem is not None]:
            raise RunStateError(problems)
