"""What a finished training leaves: the update, the statistics, and what is needed to use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.files import sha256, write_json, write_with
from ..contract.carry import FORMAT, Carry, CarryWriter, TaskUpdate


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.method import Method


def write_update(
    folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any], statistics: Mapping[str, dict[str, Tensor]]
) -> list[Path]:
    """Write ``update.safetensors``, one file for each of the statistics, and ``update.json``.

    Args:
        folder: The task's directory.
        tensors: From `Method.end_task`.
        meta: From `Method.describe_update`.
        statistics: From `Method.statistics`.

    Returns:
        The files.
    """
    from safetensors.torch import save_file

    files = []
    for name, values in {"update": tensors, **statistics}.items():
        files.append(folder / f"{name}.safetensors")
        write_with(files[-1], partial(save_file, values, metadata={"format": "pt"}))
    files.append(folder / "update.json")
    write_json(files[-1], meta)
    return files


def write_carry(
    target: Path,
    method: Method,
    previous: Carry | None,
    update: TaskUpdate,
    about: dict[str, Any],
    fill: Callable[[CarryWriter], None] | None = None,
) -> None:
    """Let a method write the next carry beside the old one, then put it in its place.

    Args:
        target: The carry's directory.
        method: The method.
        previous: The carry so far; may lie in ``target``.
        update: What the task left.
        about: ``method``, ``stream``, ``tasks`` and ``base`` of ``carry.json``.
        fill: Writes the replay buffer.
    """

    def produce(folder: Path) -> None:
        folder.mkdir(parents=True)
        writer = CarryWriter(folder)
        method.consolidate(previous, update, writer)
        if fill is not None:
            fill(writer)
        content = {"format": FORMAT, **about, "meta": writer.meta, "files": file_records(writer)}
        write_json(folder / "carry.json", content)

    write_with(target, produce)


def file_records(writer: CarryWriter) -> dict[str, dict[str, Any]]:
    """Name -> ``{"sha256", "bytes"}`` of the files of a carry that is being made."""
    files = {}
    for name in writer.file_names():
        path = writer.path / name
        files[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return files
