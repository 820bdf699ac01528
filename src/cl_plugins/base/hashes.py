"""Hashes of large or many files, remembered between starts.

Weights, data files and pictures are hashed whole, since everything else (size, header) lets another content pass. A hash
is remembered by path, size, and times of modification and change of the file, in ``hashes.sqlite`` below the user's cache
directory (``CL_PLUGINS_CACHE``, else ``$XDG_CACHE_HOME/cl_plugins``, else ``~/.cache/cl_plugins``). Without a directory
that can be written, files are hashed at every start.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from .files import sha256


#: Files of this size and below are hashed faster than they are looked up.
SMALL = 4096
_TABLE = "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, mark TEXT NOT NULL, sha256 TEXT NOT NULL)"
_lock = threading.Lock()


def cache_folder() -> Path:
    """The user's cache directory of this package."""
    home = os.environ.get("CL_PLUGINS_CACHE")
    if home:
        return Path(home)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "cl_plugins"


def cache_file() -> Path:
    """Where hashes are remembered."""
    return cache_folder() / "hashes.sqlite"


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; read only if the file has changed since it was hashed last.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
    """
    return next(iter(cached_hashes([path])))


def cached_hashes(paths: Iterable[Path]) -> Iterator[str]:
    """`cached_sha256` of many files, in order, with one connection to the cache.

    Args:
        paths: The files.

    Raises:
        OSError: A file cannot be read.
    """
    with _lock, contextlib.closing(_open()) as cache:
        found = [_hash(path, cache) for path in paths]
        with contextlib.suppress(sqlite3.Error):
            cache.commit()
    return iter(found)


def _hash(path: Path, cache: sqlite3.Connection) -> str:
    name = os.path.realpath(path)
    before = _mark(name)
    if os.path.getsize(name) <= SMALL:
        return sha256(Path(name))
    with contextlib.suppress(sqlite3.Error):
        row = cache.execute("SELECT mark, sha256 FROM hashes WHERE path = ?", (name,)).fetchone()
        if row is not None and row[0] == before:
            return str(row[1])
    value = sha256(Path(name))
    if _mark(name) == before:  # not while someone writes to it
        with contextlib.suppress(sqlite3.Error):
            cache.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", (name, before, value))
    return value


def _mark(name: str) -> str:
    """What changes when a file is written or replaced; the time of change cannot be set back by a program."""
    stat = os.stat(name)
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _open() -> sqlite3.Connection:
    """The cache; in memory where there is none on the disk."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cache = sqlite3.connect(path, timeout=5)
        cache.execute(_TABLE)
    except (OSError, sqlite3.Error):
        cache = sqlite3.connect(":memory:")
        cache.execute(_TABLE)
    return cache
