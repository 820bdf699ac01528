"""Which of the trainer's checkpoints are whole.

The trainer writes a checkpoint file by file; a kill in the middle leaves one that loads without complaint and resumes
from other numbers. A checkpoint counts only if the list that is written last is there and fits.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ..base.files import sha256, write_json


MARK = "cl_complete.json"
HASHED_UP_TO = 2 * 1024**3  # bytes; above it a hash would cost more than the training it saves


def _listing(folder: Path, *, hashes: bool) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MARK):
        record: dict[str, Any] = {"bytes": path.stat().st_size}
        if hashes:
            record["sha256"] = sha256(path)
        found[str(path.relative_to(folder))] = record
    return found


def mark_complete(folder: Path, sums: list[float], recipe: str, best: int | None = None) -> None:
    """Write the list of the files of a checkpoint; call it when all ranks have written theirs.

    Args:
        folder: ``checkpoint-<step>``.
        sums: Of every rank, the sum of its losses so far.
        recipe: What the training depends on, as one hash.
        best: Step of the checkpoint whose weights the training would end with, where a validation loss decides.
    """
    total = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    files = _listing(folder, hashes=total <= HASHED_UP_TO)
    write_json(
        folder / MARK, {"recipe": recipe, "world_size": len(sums), "loss_sums": sums, "best": best, "files": files}
    )


def loss_sums(folder: Path) -> list[float]:
    """Of every rank, the sum of its losses up to a whole checkpoint."""
    mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
    return [float(value) for value in mark["loss_sums"]]


def problem_of(folder: Path, world_size: int, recipe: str) -> str | None:
    """Why a checkpoint cannot be resumed from, or None.

    Args:
        folder: The checkpoint.
        world_size: Number of ranks now.
        recipe: What the training depends on now, as `mark_complete` was told.
    """
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        files, ranks = mark["files"], mark["world_size"]
        if len(mark["loss_sums"]) != ranks:
            raise ValueError("loss_sums")
    except (OSError, ValueError, KeyError, TypeError):
        return "it is incomplete"
    if mark.get("recipe") != recipe:
        return "it belongs to another recipe, other data or another model"
    if ranks != world_size:
        return f"it was written by {ranks} processes, and there are {world_size} now"
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record["bytes"] or ("sha256" in record and sha256(path) != record["sha256"]):
            return f"{name} is damaged"
    best = mark.get("best")
    if isinstance(best, int) and folder.name != f"checkpoint-{best}":
        other = folder.with_name(f"checkpoint-{best}")
        reason = problem_of(other, world_size, recipe)
        if reason is not None:
            return f"{other.name}, which has the best weights so far, cannot be used: {reason}"
    return None


def newest_complete(folder: Path, world_size: int, recipe: str) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest whole checkpoint of a task, and the newer ones that are not, with the reason.

    Args:
        folder: The task's directory.
        world_size: Number of ranks now.
        recipe: What the training depends on now, as one hash.
    """
    broken: list[tuple[Path, str]] = []
    for path in reversed(_checkpoints(folder)):
        reason = problem_of(path, world_size, recipe)
        if reason is None:
            return path, broken
        broken.append((path, reason))
    return None, broken


def remove_older(folder: Path, limit: int | None, best: int | None = None) -> None:
    """Keep only the newest checkpoints of a task (``save_total_limit``), and the best one.

    Args:
        folder: The task's directory.
        limit: How many; None or 0 for all.
        best: Step of the best one, which stays in addition; None if none is better than the others.
    """
    for path in _checkpoints(folder)[:-limit] if limit and limit > 0 else []:
        if path.name == f"checkpoint-{best}":
            continue
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """The task's checkpoints, oldest first."""
    numbered = []
    for path in folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            numbered.append((int(match.group(1)), path))
    return [path for _, path in sorted(numbered)]
