"""Runs and recipes below a folder, found without following links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from yaml import YAMLError

from ..base.outside import YAML_LIMIT, OutsideError, parse_json, parse_yaml, read_text
from ..base.printable import printable
from ..records.run import RUN


DEEPEST = 8  # folders below the one that is shown
MOST = 50_000  # entries that are looked at; a folder with more was named by mistake
SUFFIXES = (".yaml", ".yml", ".json")


def find_runs(root: Path) -> dict[str, Path]:
    """The runs below a folder: their names, relative to it, and their directories.

    A run is a folder with a regular file ``run.json``. Nothing inside a run is searched, hidden folders are left out, and
    links are not followed.

    Args:
        root: The folder; it may itself be a run, whose name is ``.``.
    """
    if _is_file(root / RUN):
        return {".": root}
    left = [MOST]
    return _named(root, (path for path in _folders(root, DEEPEST, left) if _is_file(path / RUN)))


def find_recipes(root: Path) -> dict[str, Path]:
    """The recipes with a ``cl:`` block below a folder: their names, relative to it, and their files.

    Args:
        root: The folder.
    """
    left = [MOST]
    files = (
        Path(entry.path)
        for folder in (root, *_folders(root, DEEPEST, left))
        for entry in _entries(folder, left)
        if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
    )
    return _named(root, (path for path in files if _has_block(path)))


def inside(root: Path, path: Path) -> bool:
    """Whether a path is strictly below a folder, with no link on the way down; the path need not exist.

    Args:
        root: The folder, which may itself be a link.
        path: The path; ``..`` is resolved without asking the disk.
    """
    absolute = Path(os.path.abspath(path))
    for top in {Path(os.path.abspath(root)), Path(os.path.realpath(root))}:
        if absolute == top or not absolute.is_relative_to(top):
            continue
        place = top
        for part in absolute.relative_to(top).parts:
            place = place / part
            if place.is_symlink():
                return False
        return True
    return False


def name_of(root: Path, path: Path) -> str:
    """The name of a path below a folder, as the board shows it."""
    for top in (Path(os.path.abspath(root)), Path(os.path.realpath(root))):
        absolute = Path(os.path.abspath(path))
        if absolute.is_relative_to(top):
            return printable(absolute.relative_to(top).as_posix())
    return printable(str(path))


def _named(root: Path, paths: Iterator[Path]) -> dict[str, Path]:
    """Names that can be shown, sent and told apart; bytes that are no text become escapes."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        name = base = printable(path.relative_to(root).as_posix())
        number = 1
        while name in found:
            number += 1
            name = f"{base} ({number})"
        found[name] = path
    return found


def _folders(folder: Path, depth: int, left: list[int]) -> Iterator[Path]:
    """Folders below one, not those inside a run."""
    for entry in _entries(folder, left):
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        yield path
        if depth > 1 and not _is_file(path / RUN):
            yield from _folders(path, depth - 1, left)


def _entries(folder: Path, left: list[int]) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder, as long as there are not too many in all; none of a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                left[0] -= 1
                if left[0] < 0:
                    return
                yield entry
    except OSError:
        return


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _has_block(path: Path) -> bool:
    """Whether a file is a mapping with the key ``cl``."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return _block_in(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _block_in(path: Path, changed: int, size: int) -> bool:
    """As `_has_block`, once for every version of a file."""
    try:
        text = read_text(path, YAML_LIMIT, follow=False)
    except (OSError, OutsideError):
        return False
    if "cl" not in text:
        return False
    try:
        content = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except (OutsideError, ValueError, YAMLError):
        return "cl:" in text  # listed, so that its check can say what is wrong with it
    return isinstance(content, dict) and "cl" in content
