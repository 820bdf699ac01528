"""What stands in local data set files, and the pictures, videos and sounds they name: looked at before anything loads.

The host warns once about a missing picture and fails when it comes to it, which may be hours later, in the last task.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..base.errors import Problem
from ..base.outside import is_regular, parse_json, read_json
from .data import local_files, source_of


KINDS = ("images", "videos", "audios")  # columns of `dataset_info.json` that name files
SHOWN = 3  # missing files named in the message


@dataclass(frozen=True)
class DataUse:
    """One data set as a run uses it.

    Attributes:
        name: Name in ``dataset_info.json``.
        dataset_dir: The host's ``dataset_dir`` for this use.
        media_dir: The host's ``media_dir``; None for ``dataset_dir``.
        limit: Only the first so many records are used; None for all.
    """

    name: str
    dataset_dir: str
    media_dir: str | None = None
    limit: int | None = None


def inspect(use: DataUse, hashed: Callable[[Path], str] | None = None) -> tuple[dict[str, Any], list[Problem]]:
    """Look at the files of one data set; media files are only asked for their size.

    Args:
        use: The data set.
        hashed: Gives the hash of a file; None leaves hashes out.

    Returns:
        ``{"files": {name: sha256}, "media": {"count", "sha256"}}``, the latter over names and sizes (of a data set on a
        hub ``source`` and its local files, if it is a folder here), and problems: unknown name, missing file, not JSON, no record, missing media.
    """
    files, problems = local_files(use.dataset_dir, [use.name])
    info = next((path for path in files if path.name == "dataset_info.json"), None)
    if problems or info is None:
        return {}, problems
    data = [path for path in files if path != info]
    entry = read_json(info)[use.name]
    source = source_of(entry)
    if source not in ("file_name", None):  # a hub: the host loads it, and says what is wrong with it
        about = {key: entry[key] for key in (source, "subset", "split", "folder") if key in entry}
        names_of = _below(data)
        return {"source": about, "files": {names_of[p]: hashed(p) if hashed else "" for p in data}}, []
    found: dict[str, Any] = {"files": {path.name: hashed(path) if hashed else "" for path in data}}
    columns = _media_columns(entry)
    names: list[str] = []
    count = 0
    for path in data:
        if path.suffix not in {".json", ".jsonl"}:
            count += 1  # not read here; the host says what is wrong with it
            continue
        stat = path.stat()
        try:
            rows, named = _read(str(path), stat.st_mtime_ns, stat.st_size, columns, use.limit)
        except ValueError as error:
            problems.append(Problem(f"data set '{use.name}'", f"{path} is not JSON ({error}).", "Mend the file."))
            continue
        names += named
        count += rows
    if not count and not problems:
        where = f"data set '{use.name}'"
        problems.append(
            Problem(where, f"holds no record ({', '.join(map(str, data))}).", "Put records into the file.")
        )
    folder = Path(use.media_dir or use.dataset_dir)
    digest, missing = _media_digest(folder, names)
    if names:
        found["media"] = digest
    if missing:
        some = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        what = f"{len(missing)} of the {len(set(names))} media files it names do not exist (e.g. {some})."
        fix = f"Put them below {folder}, or set `media_dir` to the folder that the names start from."
        problems.append(Problem(f"data set '{use.name}'", what, fix))
    return found, problems


def _below(files: list[Path]) -> dict[Path, str]:
    """Files with their names below the folder that holds them all."""
    if not files:
        return {}
    top = os.path.commonpath([path.parent for path in files])
    return {path: os.path.relpath(path, top) for path in files}


def _media_columns(entry: Any) -> tuple[str, ...]:
    columns = entry.get("columns") if isinstance(entry, Mapping) else None
    return tuple(str(columns[k]) for k in KINDS if columns.get(k)) if isinstance(columns, Mapping) else ()


@lru_cache(maxsize=64)
def _read(
    path: str, changed: int, size: int, columns: tuple[str, ...], limit: int | None
) -> tuple[int, tuple[str, ...]]:
    """Number of records and the media they name; read again only if the file's time or size differ."""
    count = 0
    names: list[str] = []
    for count, record in enumerate(_records(Path(path)), start=1):
        if limit is not None and count > limit:
            break
        if isinstance(record, Mapping):
            for column in columns:
                names.extend(_paths(record.get(column)))
    return count, tuple(names)


def _records(path: Path) -> Iterator[Any]:
    """Records of a JSON array, of JSON lines (whatever the file calls itself), or a single object.

    JSON lines are read one after the other; the other forms are held whole, as the host holds them.
    """
    with path.open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        _, first = next(lines, (0, b""))
        if not first:
            return
        try:
            record = _value(first)
        except ValueError:
            record = None  # a value that goes on in the next line
        if isinstance(record, dict):
            yield record
            for number, line in lines:
                try:
                    yield _value(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
            return
    value = _value(path.read_bytes())
    yield from value if isinstance(value, list) else [value]


def _value(data: bytes) -> Any:
    return parse_json(data)


def _paths(value: Any) -> Iterator[str]:
    """File names in a media column: a name, a list of names, or a list of lists (frames)."""
    if isinstance(value, str):
        if "://" not in value:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)


def _media_digest(folder: Path, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Hash over the names and sizes of media files, and those that do not exist."""
    digest = hashlib.sha256()
    missing = []
    unique = sorted(set(names))
    for name in unique:
        size = next((s for s in (_size(folder / name), _size(Path(name))) if s is not None), None)
        if size is None:
            missing.append(name)
        digest.update(f"{name}\0{size}\n".encode())
    return {"count": len(unique), "sha256": digest.hexdigest()}, missing


def _size(path: Path) -> int | None:
    """Size of a regular file; a pipe or a device is as good as missing, since the host would wait for it."""
    try:
        return os.stat(path).st_size if is_regular(path) else None
    except (OSError, ValueError):
        return None
