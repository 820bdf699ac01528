"""``dataset_info.json`` and ``manifest.json``: what LLaMA-Factory reads, and what people should."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...base.errors import DataError, Problem
from ...base.files import sha256, write_json
from ...base.outside import read_json
from ...base.versions import installed_versions
from .contract import Context, Converter
from .images import VERSION as IMAGES_VERSION
from .images import ImageRules
from .options import VERSION as OPTIONS_VERSION
from .writer import Assembled


INFO = "dataset_info.json"
MANIFEST = "manifest.json"
FORMAT = 1
_HASHED = 2**30  # larger raw files are named with their size only
_LIBRARIES = ("cl-plugins", "pillow", "numpy", "pyarrow", "zarr", "av")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no such file.

    Raises:
        DataError: The file holds something else.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Fix it, or give another folder.")) from error
    if not isinstance(value, dict):
        raise DataError(Problem(str(path), "holds no JSON object.", "Fix it, or give another folder."))
    return value


def info_entry(dataset: str) -> dict[str, Any]:
    """How LLaMA-Factory finds a data set and reads its records."""
    return {
        "file_name": f"{dataset}.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "images"},
    }


def fingerprint(converter: Converter, split: str, context: Context, rules: ImageRules, limit: int | None) -> str:
    """What the records of a split depend on, as one hash: code version, options, and names, sizes and times of raw files."""
    raw = []
    for path in sorted(converter.inputs(split)):
        stat = path.stat()
        raw.append([_shown(path, context.raw), stat.st_size if path.is_file() else None, stat.st_mtime_ns])
    settings = {name: converter.setting(name) for name in converter.settings}
    parts = [
        f"{type(converter).__module__}.{type(converter).__qualname__}",
        converter.version,
        OPTIONS_VERSION,
        IMAGES_VERSION,
        context.seed,
        settings,
        [rules.pad_square, rules.max_megapixels, rules.max_bytes],
        limit,
        raw,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _shown(path: Path, raw: Path) -> str:
    return path.relative_to(raw).as_posix() if path.is_relative_to(raw) else path.name


@lru_cache(maxsize=4096)
def _hash(path: Path, size: int, changed: int) -> str:
    return sha256(path)


def _raw_files(paths: Iterable[Path], raw: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(paths):
        if path.is_file():
            stat = path.stat()
            digest = _hash(path, stat.st_size, stat.st_mtime_ns) if stat.st_size <= _HASHED else None
            found.append({"file": _shown(path, raw), "bytes": stat.st_size, "sha256": digest})
        else:
            found.append({"folder": _shown(path, raw)})
    return found


def entry(
    converter: Converter,
    split: str,
    context: Context,
    rules: ImageRules,
    limit: int | None,
    made: Assembled,
    out: Path,
    mark: str,
) -> dict[str, Any]:
    """What the manifest says about one data set.

    Args:
        converter: Of the task.
        split: Which split.
        context: What the converter was told.
        rules: How pictures were stored.
        limit: Largest number of records, None for all.
        made: The finished file.
        out: The data folder.
        mark: `fingerprint`.
    """
    dataset = converter.dataset(split)
    drops = out / "dropped" / f"{dataset}.jsonl"
    dropped: dict[str, Any] = {
        "count": made.tally.dropped.total(),
        "reasons": dict(sorted(made.tally.dropped.items())),
    }
    if drops.is_file():
        dropped |= {"file": drops.relative_to(out).as_posix(), "sha256": sha256(drops)}
    return {
        "stream": converter.stream,
        "task": converter.task,
        "split": split,
        "file": f"{dataset}.jsonl",
        "records": made.tally.records,
        "bytes": made.size,
        "sha256": made.sha256,
        "pictures": {"named": made.tally.pictures, "sha256": made.pictures},
        "dropped": dropped,
        "escaped_placeholders": made.tally.escaped,
        "converter": {
            "name": f"{type(converter).__module__}:{type(converter).__qualname__}",
            "version": converter.version,
            "options_version": OPTIONS_VERSION,
        },
        "options": {
            "seed": context.seed,
            "limit": limit,
            "pad_square": rules.pad_square,
            "max_megapixels": rules.max_megapixels,
            **{name: converter.setting(name) for name in converter.settings},
        },
        "sources": [
            {"name": source.name, "where": source.where, "licence": source.licence} for source in converter.sources
        ],
        "raw": _raw_files(converter.inputs(split), context.raw),
        "notes": list(converter.notes),
        "remarks": [
            *converter.remarks(split),
            *_same_files(converter, split, context.raw),
            *_picture_remarks(converter, rules),
        ],
        "versions": installed_versions(_LIBRARIES),
        "fingerprint": mark,
    }


def _same_files(converter: Converter, split: str, raw: Path) -> list[str]:
    """Files that two splits have under different names: what is chosen on one of them must not be tested on the other."""
    own = _hashes(converter.inputs(split), raw)
    found = []
    for other in converter.splits:
        theirs = _hashes(converter.inputs(other), raw) if other != split else {}
        found += [
            f"{name} is the same file as {theirs[digest]}, of the split {other}"
            for digest, name in own.items()
            if theirs.get(digest, name) != name
        ]
    return found


def _hashes(paths: Iterable[Path], raw: Path) -> dict[str, str]:
    """sha256 -> name of the files that are hashed and not empty."""
    return {
        found["sha256"]: found["file"] for found in _raw_files(paths, raw) if found.get("sha256") and found["bytes"]
    }


def _picture_remarks(converter: Converter, rules: ImageRules) -> list[str]:
    if not converter.square or rules.pad_square:
        return []
    return ["its boxes are fractions of pictures padded to a square, and these are not: prepare it with --pad-square"]


def add(out: Path, dataset: str, described: Mapping[str, Any]) -> None:
    """Put a data set into ``dataset_info.json`` and ``manifest.json``; other content is kept.

    The manifest comes last: a data set that is in it is finished.
    """
    info = read_object(out / INFO)
    info[dataset] = info_entry(dataset)
    write_json(out / INFO, info)
    manifest = read_object(out / MANIFEST)
    datasets = dict(manifest.get("datasets", {}))
    datasets[dataset] = dict(described)
    manifest |= {"format": FORMAT, "datasets": dict(sorted(datasets.items()))}
    write_json(out / MANIFEST, manifest)


def forget(out: Path, datasets: Iterable[str]) -> None:
    """Take data sets out of the manifest, before they are rebuilt."""
    manifest = read_object(out / MANIFEST)
    kept = {name: value for name, value in manifest.get("datasets", {}).items() if name not in set(datasets)}
    if kept != manifest.get("datasets", {}):
        write_json(out / MANIFEST, manifest | {"datasets": kept})
