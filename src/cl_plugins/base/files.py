"""Durable files: every file of a run is written under a temporary name, flushed to disk and renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import Problem, RunStateError
from .lock import check_held


def sync_file(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_with(path: Path, produce: Callable[[Path], None]) -> None:
    """Let ``produce`` write a temporary file or directory next to ``path``, flush it, and put it in place.

    A reader of ``path`` sees the old content or the new one, never a part. A directory is replaced in two
    renames; `recover_directory` repairs the result of a crash between them.

    Args:
        path: The final name.
        produce: Is given the temporary name.

    Raises:
        RunStateError: If this process has lost the lock of the directory (see `check_held`), or a folder lies where a file
            is to be written, or the other way round.
    """
    check_held(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunStateError(Problem(str(path.parent), "is no folder.", "Move what lies there away.")) from error
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        produce(temporary)
        for file in [temporary, *(temporary.rglob("*") if temporary.is_dir() else ())]:
            status = file.lstat()
            # A file with another name was flushed under that one: a chain of updates would be flushed after every task.
            if stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
                sync_file(file)
        if path.exists() and temporary.is_dir() != path.is_dir():
            kind = "no folder" if temporary.is_dir() else "a folder"
            raise RunStateError(Problem(str(path), f"is {kind}.", "Move what lies there away."))
        if temporary.is_dir() and path.exists():
            previous = path.with_name(f".{path.name}.old")
            shutil.rmtree(previous, ignore_errors=True)
            os.rename(path, previous)
            os.rename(temporary, path)
            shutil.rmtree(previous, ignore_errors=True)
        else:
            os.replace(temporary, path)
        sync_file(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def recover_directory(path: Path) -> None:
    """Put back the old directory if a crash came between the two renames of `write_with`."""
    previous = path.with_name(f".{path.name}.old")
    if previous.is_dir() and not previous.is_symlink():
        if path.exists():
            shutil.rmtree(previous)
        else:
            os.rename(previous, path)


def remove_leftovers(root: Path) -> None:
    """Delete temporary files that a killed process left in ``root`` and below."""
    if not root.is_dir():
        return
    for leftover in list(root.rglob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that nothing more fits on the disk.

    The writers of safetensors and of PyTorch are native code and say it in their own words.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(
            words in str(found)
            for words in ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed")
        ):
            return True
        found = found.__cause__ or found.__context__
    return False


def is_read_only(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a file system can only be read (any more)."""
    found: BaseException | None = error
    while found is not None:
        if (isinstance(found, OSError) and found.errno == errno.EROFS) or "Read-only file system" in str(found):
            return True
        found = found.__cause__ or found.__context__
    return False


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content, all or nothing."""
    write_with(path, lambda temporary: _write(temporary, data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def append_line(path: Path, line: str, *, sync: bool = True) -> None:
    """Add a line to a file and flush it to disk. A kill in the middle may leave a part of the line, without its end.

    Args:
        path: The file; made if it is missing.
        line: Text without a line end.
        sync: Whether to flush it now. Without that it outlives the process and not a power failure; see `sync_file`.

    Raises:
        RunStateError: If this process has lost the lock of the directory (see `check_held`).
    """
    check_held(path)
    new = sync and not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        data = memoryview(line.encode() + b"\n")
        while data:
            data = data[os.write(handle, data) :]
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)
    if new:
        sync_file(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file, all or nothing."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sha256(path: Path | str) -> str:
    """Hash of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_HASHES: dict[tuple[int, ...], str] = {}
_SETTLED_NS = 100_000_000  # a file that was changed less than this ago may change again within one tick of its clock


def digest(path: Path | str) -> str:
    """As `sha256`, but computed once per process as long as nothing touches the file."""
    status = os.stat(path)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key in _HASHES:
        return _HASHES[key]
    found = sha256(path)
    if time.time_ns() - status.st_ctime_ns > _SETTLED_NS:
        _HASHES[key] = found
    return found


def artefact(root: Path, path: Path) -> dict[str, dict[str, Any]]:
    """``{relative name: {"sha256", "bytes", "mtime_ns"}}`` of one finished file."""
    stat = path.stat()
    return {str(path.relative_to(root)): {"sha256": digest(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}}
