"""One run per directory: an OS lock that the kernel releases, and a note that says who holds it."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .errors import Problem, RunStateError


class RunLock:
    """Context manager that holds ``.lock`` in the output directory.

    Args:
        root: The output directory; created if need be.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / ".lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises:
            RunStateError: If another process holds it; the message says which.
        """
        import fcntl

        self._root.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = _note(file.read())
            file.close()
            who = (
                f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, started {holder.get('started', '?')}"
            )
            fix = "Wait for it, stop it, or choose another `output_dir`."
            raise RunStateError(Problem(str(self._root), f"is in use by {who}.", fix)) from error
        note = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        file.seek(0)
        file.truncate()
        file.write(json.dumps(note))
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; the empty file stays, so that nobody locks a name that is being deleted."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _note(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
