"""The journal: one line per finished step. What stands in it is never done again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..base.files import sha256, write_bytes


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
        self._path = root / "journal.jsonl"
        self.entries: dict[str, Entry] = {}
        if not self._path.is_file():
            return
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                data = json.loads(line)
                self.entries[data["step"]] = Entry(**data)
            except (ValueError, KeyError, TypeError) as error:
                fix = "Restore the file from a copy, or start again with `cl.restart: true`."
                raise RunStateError(
                    Problem(f"{self._path}:{number}", f"is not a journal line ({error}).", fix)
                ) from error

    def __contains__(self, step: str) -> bool:
        """Whether the step is finished."""
        return step in self.entries

    def finish(self, step: str, seconds: float, artefacts: dict[str, dict[str, Any]], **details: Any) -> None:
        """Write that a step is finished. Its artefacts must be on disk already."""
        self.add(step, seconds, artefacts, **details)
        self.rewrite()

    def add(self, step: str, seconds: float, artefacts: dict[str, dict[str, Any]], **details: Any) -> None:
        """Note in memory that a step is finished; `rewrite` makes it durable."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.entries[step] = Entry(step, round(seconds, 3), artefacts, time, details)

    def rewrite(self) -> None:
        """Write the file anew from the entries in memory."""
        lines = [json.dumps(vars(entry), ensure_ascii=False) for entry in self.entries.values()]
        write_bytes(self._path, ("\n".join(lines) + "\n").encode())

    def forget(self, name: str) -> None:
        """Drop a file from all entries, because it was deleted on purpose."""
        for step, entry in list(self.entries.items()):
            if name in entry.artefacts:
                kept = {k: v for k, v in entry.artefacts.items() if k != name}
                self.entries[step] = Entry(entry.step, entry.seconds, kept, entry.time, entry.details)

    def damaged(self, *, full: bool = False) -> list[Problem]:
        """Artefacts that are missing or differ from their record.

        A file that a later step wrote anew counts with its latest record.

        Args:
            full: Compare hashes, and not only size and time.
        """
        latest: dict[str, dict[str, Any]] = {}
        for entry in self.entries.values():
            latest.update(entry.artefacts)
        found = []
        fix = "Restore the file from a copy, or start again with `cl.restart: true`."
        for name, record in latest.items():
            path = self._root / name
            if not path.is_file():
                found.append(Problem(str(path), "is missing though its step is finished.", fix))
                continue
            stat = path.stat()
            same = stat.st_size == record["bytes"] and stat.st_mtime_ns == record.get("mtime_ns")
            if stat.st_size != record["bytes"] or ((full or not same) and sha256(path) != record["sha256"]):
                found.append(Problem(str(path), "has changed since its step was finished.", fix))
        return found
