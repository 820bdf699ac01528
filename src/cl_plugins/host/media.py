"""Checks of local data set files and of the media they name, before anything is loaded.

The host warns once about a missing picture and fails when it comes to it, which may be hours later, in the last task.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import wave
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..base.errors import Problem
from ..base.hashes import cached_hashes, cached_sha256
from ..base.outside import is_regular, open_regular, read_json
from .data import local_files, num_samples_problem, source_of
from .media_names import TABLES, read_records, read_table


KINDS = ("images", "videos", "audios")  # columns of `dataset_info.json` that name files
SHOWN = 3  # missing files named in the message


@dataclass(frozen=True)
class DataUse:
    """One data set as a run uses it.

    Attributes:
        name: Name in ``dataset_info.json``.
        dataset_dir: The host's ``dataset_dir`` for this use.
        media_dir: The host's ``media_dir``; None for ``dataset_dir``.
        limit: Only the first records up to this number are used; None for all.
        test: Whether it is a test set.
    """

    name: str
    dataset_dir: str
    media_dir: str | None = None
    limit: int | None = None
    test: bool = False


def inspect(use: DataUse) -> list[Problem]:
    """Check the files of one data set; of media files only the size.

    Args:
        use: The data set.

    Returns:
        Problems: unknown name, missing file, not JSON, no record, missing media, ``num_samples`` of a test set.
    """
    return _look(use)[2]


def fingerprint(use: DataUse, hashed: Callable[[Path], str] = cached_sha256) -> dict[str, Any]:
    """What of a data set decides a number: its entry in ``dataset_info.json``, its files, and its media, by their bytes.

    Args:
        use: The data set.
        hashed: Gives the hash of a data file.

    Returns:
        ``{"entry": {...}, "files": {name: sha256}, "media": {"count", "sha256"}}``, the last over names and contents; of
        data sets on a hub the entry, and the files of a folder that has a hub's form (`hub_digest` is for the rows of others).
    """
    data, names, _ = _look(use)
    files, _ = local_files(use.dataset_dir, [use.name])
    info = next((path for path in files if path.name == "dataset_info.json"), None)
    if info is None:
        return {"entry": {"hub": use.name}}  # ONLINE, or a dataset_info.json that is on a hub itself
    entry = {key: value for key, value in _entry(info, use.name).items() if key != "file_name"}
    found: dict[str, Any] = {"entry": entry} if entry else {}
    names_of = _below(data) if on_hub(entry) else {path: path.name for path in data}
    found["files"] = {names_of[path]: hashed(path) for path in data}
    if names:
        found["media"] = media_digest(use, names)
    return found


def _look(use: DataUse) -> tuple[list[Path], list[str], list[Problem]]:
    """The data files, the media they name, and what is wrong."""
    files, problems = local_files(use.dataset_dir, [use.name])
    info = next((path for path in files if path.name == "dataset_info.json"), None)
    if problems or info is None:
        return [], [], problems
    where = f"data set '{use.name}'"
    data = [path for path in files if path != info]
    entry = _entry(info, use.name)
    if use.test and entry.get("num_samples") is not None:
        problems.append(num_samples_problem(f"{info}: {use.name}"))
    problems += _sound_problems(where, entry)
    columns = media_columns(entry)
    if on_hub(entry):  # the host loads it, and says what is wrong with it
        return data, _named(data, columns, use), problems
    names: list[str] = []
    count = 0
    for path in data:
        if path.suffix not in {".json", ".jsonl"}:
            count += 1  # the host says what is wrong with it
            if path.suffix in TABLES:
                stat = path.stat()
                names += read_table(str(path), stat.st_mtime_ns, stat.st_size, columns, use.limit)
            continue
        if _has_mark(path):
            what = f"{path} begins with a byte order mark (BOM), which the reader of JSON lists does not accept."
            problems.append(Problem(where, what, "Save the file as UTF-8 without BOM."))
            continue
        stat = path.stat()
        try:
            rows, named = read_records(str(path), stat.st_mtime_ns, stat.st_size, columns, use.limit)
        except ValueError as error:
            problems.append(Problem(where, f"{path} is not JSON ({error}).", "Fix the file."))
            continue
        names += named
        count += rows
    if not count and not problems:
        what = f"contains no record ({', '.join(map(str, data))})."
        problems.append(Problem(where, what, "Add records to the file."))
    folder = Path(use.media_dir or use.dataset_dir)
    missing = [name for name in sorted(set(names)) if _media_path(folder, name) is None]
    if missing:
        some = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        what = f"{len(missing)} of the {len(set(names))} media files it names do not exist (e.g. {some})."
        fix = f"Put them below {folder}, or set `media_dir` to the folder that the names start from."
        problems.append(Problem(where, what, fix))
    return data, names, problems


def _named(data: list[Path], columns: tuple[str, ...], use: DataUse) -> list[str]:
    """Media that files of a hub's form name, and that are on this machine."""
    names: list[str] = []
    for path in data if columns else ():
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size, columns, use.limit)
        if path.suffix in TABLES:
            names += read_table(*key)
        elif path.suffix in {".json", ".jsonl"}:
            with suppress(ValueError):
                names += read_records(*key)[1]
    return there(use, names)


def there(use: DataUse, names: Iterable[str]) -> list[str]:
    """Those of the named media that are files of this machine.

    Args:
        use: The data set.
        names: What its records name.
    """
    folder = Path(use.media_dir or use.dataset_dir)
    return [name for name in dict.fromkeys(names) if _media_path(folder, name) is not None]


def on_hub(entry: Mapping[str, Any]) -> bool:
    """Whether the host does not read the records of a data set from a file that the entry names.

    Args:
        entry: Its entry in ``dataset_info.json``.
    """
    return "hub" in entry or source_of(entry) not in ("file_name", None)


def _below(files: list[Path]) -> dict[Path, str]:
    """Files with their names below the folder that holds them all."""
    if not files:
        return {}
    top = os.path.commonpath([path.parent for path in files])
    return {path: os.path.relpath(path, top) for path in files}


def _has_mark(path: Path) -> bool:
    """Whether a JSON list begins with a byte order mark; in JSON lines the host's reader skips it."""
    with open_regular(path) as file:
        return file.read(64).startswith(b"\xef\xbb\xbf") and _first_value(path) == "["


def _first_value(path: Path) -> str:
    with open_regular(path) as file:
        for line in file:
            text = line.decode("utf-8-sig", errors="replace").strip()
            if text:
                return text[0]
    return ""


def _sound_problems(where: str, entry: Mapping[str, Any]) -> list[Problem]:
    """Sounds are read by torchaudio, which since 2.9 asks TorchCodec to do it, and TorchCodec asks FFmpeg."""
    columns = entry.get("columns")
    if not (isinstance(columns, Mapping) and columns.get("audios")):
        return []
    try:
        newest = tuple(int(part) for part in version("torchaudio").split(".")[:2]) >= (2, 9)
    except (PackageNotFoundError, ValueError):
        return []  # the host says that it needs torchaudio
    if not newest:
        return []
    if find_spec("torchcodec") is None:
        what = "has sounds, which torchaudio reads with the package torchcodec; that is not installed."
        return [Problem(where, what, "pip install torchcodec (it needs FFmpeg's libraries as well).")]
    reason = _torchcodec_fault()
    if reason is None:
        return []
    what = f"has sounds, which torchaudio reads with the package torchcodec; that cannot read a sound here ({reason})."
    fix = "Install FFmpeg's shared libraries (apt-get install ffmpeg) and a torchcodec that fits the installed torch."
    return [Problem(where, what, fix)]


@cache
def _torchcodec_fault() -> str | None:
    """Why TorchCodec cannot read a sound on this machine, in a line; None if it can.

    TorchCodec 0.17 imports without FFmpeg and fails at the first file, older ones fail when they are imported.
    """
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(bytes(3200))
    try:
        importlib.import_module("torchcodec.decoders").AudioDecoder(file.getvalue()).get_all_samples()
    except Exception as error:
        message = str(error).strip() or type(error).__name__  # TorchCodec's has 100 lines, the first sentence says it
        return message.splitlines()[0].partition(". ")[0].rstrip(".:")
    return None


def _entry(info: Path, name: str) -> Mapping[str, Any]:
    entry = read_json(info)[name]
    return entry if isinstance(entry, Mapping) else {}


def media_columns(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a data set that name media.

    Args:
        entry: Its entry in ``dataset_info.json``.
    """
    columns = entry.get("columns")
    return tuple(str(columns[k]) for k in KINDS if columns.get(k)) if isinstance(columns, Mapping) else ()


def media_digest(use: DataUse, names: Iterable[str]) -> dict[str, Any]:
    """Hash over the names and contents of media files; one that is not there counts by its name.

    Args:
        use: The data set.
        names: What its records name.

    Returns:
        ``{"count", "sha256"}``.
    """
    digest = hashlib.sha256()
    unique = sorted(set(names))
    folder = Path(use.media_dir or use.dataset_dir)
    paths = [_media_path(folder, name) for name in unique]
    hashes = cached_hashes([path for path in paths if path is not None and path.is_file()])
    for name, path in zip(unique, paths, strict=True):
        content = next(hashes) if path is not None and path.is_file() else ""
        digest.update(f"{name}\0{content}\n".encode())
    return {"count": len(unique), "sha256": digest.hexdigest()}


def _media_path(folder: Path, name: str) -> Path | None:
    """Where a media file is, or a folder of frames; a pipe or a device is as good as missing: the host would wait for it."""
    for path in (folder / name, Path(name)):
        try:
            if is_regular(path) or path.is_dir():
                return path
        except (OSError, ValueError):
            continue
    return None
