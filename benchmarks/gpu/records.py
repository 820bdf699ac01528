"""Records of `benchmarks.gpu`: one JSON file per cell, with the machine it was measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import Cell
from benchmarks.gpu.shapes import Scale
from cl_plugins.base.errors import DataError, Problem
from cl_plugins.base.files import write_json
from cl_plugins.base.outside import read_json
from cl_plugins.base.versions import installed_versions


PACKAGES = (
    "torch", "triton", "transformers", "peft", "accelerate", "trl", "datasets", "llamafactory", "cl-plugins",
    "bitsandbytes", "liger-kernel", "flash-attn", "unsloth", "torchao",
)  # fmt: skip
#: What has to be equal for an earlier measurement to count, and the versions among it.
SAME, SAME_VERSIONS = ("card", "driver", "machine"), ("torch", "transformers", "peft", "llamafactory")


def cards() -> list[dict[str, str]]:
    """Name, memory and driver of every card that ``nvidia-smi`` names; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    return [dict(zip(("card", "memory", "driver"), row, strict=True)) for row in rows] if done.returncode == 0 else []


def commit(root: Path) -> str | None:
    """The commit of the tree, with ``+`` if files differ from it; None outside of a clone.

    Args:
        root: Root of the repository.
    """
    given = os.environ.get("CL_PLUGINS_COMMIT")  # for a copy without .git
    if given:
        return given
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        state = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if state.stdout.strip() else "")


def where(root: Path, *, gpu: bool) -> dict[str, Any]:
    """The machine of a measurement.

    Args:
        root: Root of the repository.
        gpu: Whether the card is used.
    """
    versions = {"python": platform.python_version(), **installed_versions(PACKAGES)}
    found: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores", "versions": versions,
        "commit": commit(root), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    if gpu:
        there, chosen = cards(), os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        found |= there[int(chosen)] if chosen.isdigit() and int(chosen) < len(there) else there[0]
    else:
        found["threads"] = os.environ.get("OMP_NUM_THREADS", "all")
    return found


def write(folder: Path, cell: Cell, scale: Scale, here: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a cell.

    Args:
        folder: Folder of the records.
        cell: The cell.
        scale: Sizes.
        here: From `where`.
        found: What was measured, or its ``error``.

    Returns:
        The record.
    """
    record = {
        "name": cell.name, "kind": cell.kind, "model": cell.model, "scale": scale.name, "digest": cell.digest(scale),
        "batch": scale.batch, "steps": scale.steps, "where": here, "measured": found,
    }  # fmt: skip
    write_json(folder / f"{cell.file_name}.json", record)
    return record


def read(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The record of a cell; None if there is none.

    Args:
        folder: Folder of the records.
        cell: The cell.

    Raises:
        DataError: The file cannot be read as a record.
    """
    path = folder / f"{cell.file_name}.json"
    if not path.is_file():
        return None
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Delete it to measure again.")) from error
    if not isinstance(record, dict) or not isinstance(record.get("measured"), dict):
        raise DataError(Problem(str(path), "is no record of this benchmark.", "Delete it to measure again."))
    return record


def counts(record: dict[str, Any] | None, cell: Cell, scale: Scale, here: dict[str, Any]) -> bool:
    """Whether a cell need not be measured again: the same cell, on the same card with the same versions.

    Args:
        record: From `read`.
        cell: The cell.
        scale: Sizes.
        here: From `where`.
    """
    if record is None or record.get("digest") != cell.digest(scale) or "absent" in record["measured"]:
        return False
    there = record.get("where", {})
    return all(there.get(key) == here.get(key) for key in SAME) and all(
        there.get("versions", {}).get(name) == here["versions"].get(name) for name in SAME_VERSIONS
    )
