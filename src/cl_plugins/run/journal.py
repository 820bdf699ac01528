"""The journal: one line per finished step. Steps in it are never repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..records.files import FileRecord, file_problem
from ..records.run import JOURNAL, read_journal, write_journal


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

    Args:
        root: The output directory.

    Raises:
        RunStateError: If a line cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.entries: dict[str, Entry] = {}
        self._written: list[Entry] = []  # the entries in `_text`
        self._text = ("", "")
        for line in read_journal(root):
            artefacts = {name: record.plain() for name, record in line.artefacts.items()}
            self.entries[line.step] = Entry(line.step, line.seconds, artefacts, line.time, line.details)

    def __contains__(self, step: str) -> bool:
        """Whether the step is finished."""
        return step in self.entries

    def finish(self, step: str, seconds: float, artefacts: dict[str, dict[str, Any]], **details: Any) -> None:
        """Write that a step is finished. Its artefacts must be on disk already."""
        self.add(step, seconds, artefacts, **details)
        *before, entry = self.entries.values()
        if len(before) != len(self._written) or any(a is not b for a, b in zip(before, self._written, strict=True)):
            self.rewrite()
            return
        self._text = write_journal(self._root, [vars(entry)], self._text)  # the earlier lines are as they were
        self._written.append(entry)

    def add(self, step: str, seconds: float, artefacts: dict[str, dict[str, Any]], **details: Any) -> None:
        """Note in memory that a step is finished; `rewrite` makes it durable."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.entries[step] = Entry(step, round(seconds, 3), artefacts, time, details)

    def rewrite(self) -> None:
        """Rewrite the file from the entries in memory."""
        self._written = list(self.entries.values())
        self._text = write_journal(self._root, (vars(entry) for entry in self._written))

    def forget(self, name: str) -> None:
        """Drop a file from all entries, because it was deleted on purpose."""
        for step, entry in list(self.entries.items()):
            if name in entry.artefacts:
                kept = {k: v for k, v in entry.artefacts.items() if k != name}
                self.entries[step] = Entry(entry.step, entry.seconds, kept, entry.time, entry.details)

    def latest(self) -> dict[str, FileRecord]:
        """The latest record of every file that a step has written."""
        found: dict[str, FileRecord] = {}
        for entry in self.entries.values():
            found |= {name: FileRecord.model_validate(record) for name, record in entry.artefacts.items()}
        return found

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
        found = [self._problem(n, r, full=True) for n, r in self.latest().items() if n.startswith(f"{own}/")]
        if problems := [problem for problem in found if problem is not None]:
            raise RunStateError(problems)
