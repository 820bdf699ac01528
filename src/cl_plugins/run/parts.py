"""Answers of a test set that is not finished yet: one line per batch, flushed to disk before the next batch begins.

``predictions/<row>/<task>.parts/rank0.jsonl`` holds a line that says what the answers belong to, and then a line for
every batch that this rank has answered. The batches are cut by the test set alone, so answers from before a kill are
used afterwards, also by another number of ranks, and the predictions are those of an undisturbed run. A last line that
was torn by a kill does not count. Answers that belong to anything else (another model, other items, other settings)
are thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import files
from ..base.errors import RunStateError
from ..generation.answers import Answer
from ..records.record import read_file
from ..records.results import PREDICTIONS


if TYPE_CHECKING:
    from ..contract.carry import Carry
    from ..contract.test_item import TestItem


FORMAT = 2


def folder(root: Path, row: str, task: str, place: str = PREDICTIONS) -> Path:
    """Where the answers of an unfinished step are; ``place`` is the folder of the run for its kind of step."""
    return root / place / row / f"{task}.parts"


def remove(root: Path, row: str, task: str, place: str = PREDICTIONS) -> None:
    """Delete them; the step is finished."""
    shutil.rmtree(folder(root, row, task, place), ignore_errors=True)


def identity_of(carry: Carry | None) -> Any:
    """What tells one carry from another: the hashes of its files."""
    if carry is None:
        return None
    return {"tasks": list(carry.tasks), "meta": carry.meta, "files": carry.files}


def fingerprint(about: Mapping[str, Any], items: Sequence[TestItem], data_files: Sequence[Path] = ()) -> str:
    """One hash over everything that the answers depend on.

    Args:
        about: Model and settings, as plain JSON types.
        items: The test set.
        data_files: Files of the test set, for pictures that are kept inside them.

    Returns:
        SHA-256, in hex.
    """
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for path in data_files:
        digest.update(_stat(str(path)))
    for item in items:
        digest.update(json.dumps([item.id, len(item.tokens), item.kinds]).encode())
        digest.update(item.tokens.tobytes())
        if isinstance(item.media, Mapping):
            for name in _names(item.media):
                digest.update(_stat(name))
        else:
            digest.update(f"row {item.media.row}".encode())
    return digest.hexdigest()


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [name for key in sorted(value) for name in _names(value[key])]
    if isinstance(value, list | tuple):
        return [name for item in value for name in _names(item)]
    return [] if value is None else [str(value)]


def _stat(name: str) -> bytes:
    """Size and time of a file stand for its content."""
    try:
        stat = os.stat(name)
    except OSError:
        return name.encode()
    return f"{Path(name).name} {stat.st_size} {stat.st_mtime_ns}".encode()


def read(path: Path, key: str, sizes: Sequence[int]) -> dict[int, list[Answer]]:
    """The answers that are there for this very test set and model; everything else in the folder is deleted.

    Args:
        path: From `folder`.
        key: From `fingerprint`.
        sizes: Number of items of every batch.

    Returns:
        Number of the batch -> answers.
    """
    found: dict[int, list[Answer]] = {}
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() and not path.is_symlink() else []:
        answers, _ = _usable(file, key, sizes)
        if answers is None:
            file.unlink()
        else:
            found |= answers
    return found


def _usable(file: Path, key: str, sizes: Sequence[int]) -> tuple[dict[int, list[Answer]] | None, int]:
    """The answers in one file and the bytes that they take; None if it belongs to something else."""
    try:
        lines = read_file(file).splitlines(keepends=True)
    except RunStateError:  # a link, a pipe, or damaged
        return None, 0
    if not lines or _parsed(lines[0]) != {"format": FORMAT, "answers_of": key}:
        return None, 0
    found: dict[int, list[Answer]] = {}
    length = len(lines[0])
    for line in lines[1:]:
        value = _parsed(line)
        if not isinstance(value, dict):
            break
        number, texts, cut = value.get("batch"), value.get("texts"), value.get("cut")
        routes = value.get("routes", {})
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(sizes):
            break
        if not isinstance(texts, list):
            break
        if not isinstance(cut, list) or not all(isinstance(place, int) for place in cut):
            break
        if len(texts) != sizes[number] or not all(isinstance(text, str) for text in texts):
            break
        if not isinstance(routes, dict):
            break
        found[number] = [Answer(text, place in cut, routes.get(str(place))) for place, text in enumerate(texts)]
        length += len(line)
    return found, length


def _parsed(line: bytes) -> Any:
    """The value of one line; None if the line was torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


class Writer:
    """Adds answers to the file of one rank.

    Args:
        path: From `folder`.
        rank: Number of the rank.
        key: From `fingerprint`.
        sizes: Number of items of every batch.
    """

    def __init__(self, path: Path, rank: int, key: str, sizes: Sequence[int]) -> None:
        if path.is_symlink():
            path.unlink()
        path.mkdir(parents=True, exist_ok=True)
        self._file = path / f"rank{rank}.jsonl"
        usable, length = _usable(self._file, key, sizes) if os.path.lexists(self._file) else (None, 0)
        if usable is None:
            self._file.unlink(missing_ok=True)
        else:
            os.truncate(self._file, length)  # a torn line at the end would spoil the next one
        if usable is None:
            files.append_line(self._file, json.dumps({"format": FORMAT, "answers_of": key}))

    def add(self, number: int, answers: Sequence[Answer]) -> None:
        """Make the answers of one batch durable."""
        texts, cut = [one.text for one in answers], [place for place, one in enumerate(answers) if one.cut]
        routes = {str(place): one.route for place, one in enumerate(answers) if one.route is not None}
        line = {"batch": number, "texts": texts, "cut": cut, **({"routes": routes} if routes else {})}
        files.append_line(self._file, json.dumps(line))
