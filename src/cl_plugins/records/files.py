"""Files that a record names by their hash: checked before they are used, without following a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from ..base.errors import Problem, RunStateError
from ..base.files import digest
from .record import Count, Part, Sha256


class FileRecord(Part):
    """Hash and size of a file.

    Attributes:
        sha256: Hash of its bytes, in hex.
        bytes: Its size.
        mtime_ns: When it was written, where that is known: large files are compared by size and time first.
    """

    sha256: Sha256
    bytes: Count
    mtime_ns: int | None = Field(default=None)

    def plain(self) -> dict[str, str | int]:
        """As plain JSON types."""
        return {key: value for key, value in vars(self).items() if value is not None}


def record_of(path: Path) -> FileRecord:
    """Hash and size of a file as it is now."""
    return FileRecord(sha256=digest(path), bytes=path.stat().st_size)


def file_problem(root: Path, name: str, record: FileRecord, fix: str, source: str) -> Problem | None:
    """What is wrong with a file that a record names; None if it is the file that was written.

    Args:
        root: The folder.
        name: Relative name, of a form that `records.names` accepts.
        record: Its hash and size.
        fix: What to do about it.
        source: The file that holds the record, for the message.
    """
    place = str(root)
    try:
        status = os.stat(place)
        for part in Path(name).parts:
            place = os.path.join(place, part)
            status = os.lstat(place)
            if stat.S_ISLNK(status.st_mode):
                return Problem(str(Path(place)), "is a symbolic link, which is not followed.", fix)
        if not stat.S_ISREG(status.st_mode):
            return Problem(str(root / name), "is not a regular file.", fix)
        if status.st_size != record.bytes or digest(place) != record.sha256:
            return Problem(str(root / name), f"differs from its hash in {source}.", fix)
    except FileNotFoundError:
        return Problem(str(root / name), "is missing.", fix)
    except OSError as error:
        return Problem(str(root / name), f"cannot be read ({error.strerror}).", fix)
    return None


def table_problems(root: Path, table: Mapping[str, FileRecord], fix: str, source: str) -> list[Problem]:
    """What is wrong with the files of a table ``name -> hash and size``."""
    checked = (file_problem(root, name, record, fix, source) for name, record in table.items())
    return [problem for problem in checked if problem is not None]


def check_folders(root: Path) -> None:
    """Refuse a run whose folders are symbolic links: what is written or deleted in them would be outside.

    Args:
        root: The run's directory, which may itself be a link.

    Raises:
        RunStateError: Naming every link.
    """
    folders = [
        root / name
        for name in (
            "carry",
            ".carry.old",
            "final",
            ".final.old",
            "predictions",
            "probes",
            "tasks",
            "rescored",
            "received",
        )
    ]
    inner = [
        path
        for name in ("predictions", "probes", "tasks")
        if not (root / name).is_symlink()
        for path in (root / name).glob("*")
    ]
    found = [path for path in (*folders, *inner) if path.is_symlink()]
    if found:
        fix = "Use a folder instead; only `output_dir` itself may be a link."
        raise RunStateError([Problem(str(path), "is a symbolic link, which is not followed.", fix) for path in found])


def unlisted(root: Path, table: Mapping[str, FileRecord], besides: tuple[str, ...], source: str) -> list[Problem]:
    """The entries of a folder that are not in its table: files, links, pipes, devices.

    Args:
        root: The folder.
        table: ``name -> hash and size``.
        besides: Names that need not be in the table.
        source: The file that holds the table, for the message.
    """
    found = []
    for name, regular in sorted(_walk(root, "")):
        if not regular:
            fix = "Remove it, or copy the folder again from its source."
            found.append(Problem(str(root / name), "is neither a regular file nor a folder.", fix))
        elif name not in table and name not in besides:
            fix = "Remove it, or copy the folder again from its source."
            found.append(Problem(str(root / name), f"is not listed in {source}.", fix))
    return found


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, bool]]:
    """Relative names of everything below that is no folder, and whether it is a regular file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{name}/")
            else:
                yield name, entry.is_file(follow_symlinks=False)
