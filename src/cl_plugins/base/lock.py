"""One process per directory: a lock of the operating system, and a note that says who holds it.

The lock is taken with `filelock` on the file ``.lock``. Its first byte is a space, because Windows locks that byte
against reading; the note follows as JSON. On a file system without locks, `filelock.SoftFileLock` keeps a marker file
``.lock.soft`` instead.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import Problem, RunStateError
from .logs import logger
from .words import either, words


if TYPE_CHECKING:
    from filelock import SoftFileLock

LOCK, MARKER = ".lock", ".lock.soft"
#: Files of the lock; they stay where they are when everything else in a directory is moved.
FILES = (LOCK, MARKER)
#: A reader that only asks who holds the lock takes it for a moment; a refusal needs more than one try.
_TRIES, _PAUSE = 4, 0.05
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_held: dict[int, RunLock] = {}


class RunLock:
    """Context manager that holds the lock of a directory.

    The kernel releases the lock when the process ends. A marker on a file system without locks outlives a killed
    process; the next process on the same machine removes it, a process on another machine cannot.

    Args:
        root: The output directory; created if need be.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._absolute = os.path.abspath(root)
        self._path = root / LOCK
        self._file: int | None = None
        self._marker: SoftFileLock | None = None
        self._by_marker = False

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises:
            RunStateError: If another process holds it; the message says which. If the lock file cannot be written.
        """
        note: dict[str, Any] = {}
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE)
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                file = _open(self._path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise self._unusable(error) from error
            taken = False
            try:
                taken = self._take(file) and _names(self._path, file)
                if taken:
                    _write(file)
                    self._file = file
                    _held[id(self)] = self
                    return self
                note = _read(file)
            except OSError as error:
                raise self._unusable(error) from error
            finally:
                if not taken:
                    self._release_marker()
                    os.close(file)
        raise RunStateError(self._in_use(note))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; the empty file stays, so that no process locks a name that is being deleted."""
        if self._file is None:
            return
        _held.pop(id(self), None)
        file, self._file = self._file, None
        try:
            os.ftruncate(file, 0)
        finally:
            self._release_marker()
            os.close(file)

    def check(self) -> None:
        """Make sure that the lock of this directory is still the one that this process holds.

        Raises:
            RunStateError: If the lock file was deleted or replaced; another process may then hold the new one.
        """
        if self._file is None:
            return
        marker = self._marker
        if marker.is_lock_held_by_us if marker is not None else _names(self._path, self._file):
            return
        name = self._path if marker is None else self._root / MARKER
        what = (
            f"was deleted or replaced while process {os.getpid()} held it; another run may be writing to {self._root}."
        )
        fix = "Make sure that one process at most uses this directory, and run the same command again."
        raise RunStateError(Problem(str(name), what, fix))

    def guards(self, path: str) -> bool:
        """Whether an absolute path is in the directory of this lock."""
        return path.startswith(self._absolute + os.sep)

    def _take(self, file: int) -> bool:
        """Lock the open file, or create the marker where the file system cannot lock."""
        try:
            return _try_lock(file)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        from filelock import SoftFileLock, Timeout

        self._by_marker = True
        marker = SoftFileLock(str(self._root / MARKER), timeout=0)
        try:
            marker.acquire()
        except Timeout:
            return False
        self._marker = marker
        logger.warning(
            "%s is on a file system without file locks (%s); the marker %s is used instead. If this process is killed, "
            "a run on another machine starts only after the marker was deleted manually.",
            self._root,
            file_system(self._root),
            MARKER,
        )
        return True

    def _release_marker(self) -> None:
        marker, self._marker = self._marker, None
        if marker is not None:
            marker.release()

    def _in_use(self, note: dict[str, Any]) -> Problem:
        fix = either("Wait for it", "stop it", words().elsewhere)
        if self._by_marker:
            fix += (
                f" Its file system ({file_system(self._root)}) has no file locks; if that process is gone, "
                f"delete {self._root / MARKER}."
            )
        return Problem(str(self._root), f"is in use by {describe(note)}.", fix)

    def _unusable(self, error: OSError) -> RunStateError:
        what = (
            f"cannot be used as lock file ({error.strerror or error}); the file system is {file_system(self._root)}."
        )
        return RunStateError(Problem(str(self._path), what, either("Fix its permissions", words().elsewhere)))


def describe(note: dict[str, Any]) -> str:
    """``process 12 on host, started 2025-01-01T00:00:00+00:00``, from the note of a lock."""
    return f"process {note.get('pid', '?')} on {note.get('host', '?')}, started {note.get('started', '?')}"


def holder(root: Path) -> dict[str, Any] | None:
    """Who holds the lock of a directory at this moment: ``{"host", "pid", "started"}``, or None if no process does.

    Where the lock cannot be tried (a file system without locks or without write permission), the note counts unless
    its process ran on this machine and is gone.

    Args:
        root: The directory of a run.
    """
    path = root / LOCK
    try:
        file = _open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    except OSError:
        try:
            file = _open(path, os.O_RDONLY)
        except OSError:
            return None
    try:
        try:
            return None if _try_lock(file) else _read(file)
        except OSError:
            note = _read(file)
            return note if note and not _is_gone(note) else None
    finally:
        os.close(file)


def check_held(path: Path) -> None:
    """Refuse to write a file into a directory whose lock this process has lost. Costs two `stat` calls per lock.

    Args:
        path: The file that is about to be written.

    Raises:
        RunStateError: If the lock file of its directory was deleted or replaced.
    """
    if not _held:
        return
    absolute = os.path.abspath(path)
    for lock in list(_held.values()):
        if lock.guards(absolute):
            lock.check()


def file_system(path: Path) -> str:
    """Type and mount point of the file system of a path, e.g. ``nfs4 at /home``."""
    import psutil

    resolved = os.path.realpath(path)
    found = ("unknown type", resolved)
    longest = -1
    for part in psutil.disk_partitions(all=True):
        inside = resolved == part.mountpoint or resolved.startswith(part.mountpoint.rstrip(os.sep) + os.sep)
        if inside and len(part.mountpoint) >= longest:
            found, longest = (part.fstype or "unknown type", part.mountpoint), len(part.mountpoint)
    return f"{found[0]} at {found[1]}"


def _open(path: Path, flags: int) -> int:
    """Open a lock file: never through a link, and no pipe or device, which could block.

    Raises:
        OSError: If it cannot be opened, or is no regular file.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    file = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def _try_lock(file: int) -> bool:
    from filelock import lock_descriptor

    return lock_descriptor(file, blocking=False)


def _names(path: Path, file: int) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except OSError:
        return False


def _write(file: int) -> None:
    note = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, b" " + json.dumps(note).encode())


def _read(file: int) -> dict[str, Any]:
    try:
        os.lseek(file, 1, os.SEEK_SET)
        value = json.loads(os.read(file, 4096))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_gone(note: dict[str, Any]) -> bool:
    """Whether the process of a note ran on this machine and has ended."""
    import psutil

    pid = note.get("pid")
    return note.get("host") == socket.gethostname() and isinstance(pid, int) and not psutil.pid_exists(pid)


def _after_fork() -> None:
    """A data loader's process must not keep the lock of a run that was killed."""
    for lock in list(_held.values()):
        if lock._file is not None:
            os.close(lock._file)
            lock._file = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
