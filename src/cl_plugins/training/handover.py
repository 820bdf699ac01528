"""What a finished training leaves: the update, the statistics, and what is needed to use them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.files import sha256, write_json, write_with
from ..contract.carry import FORMAT, Carry, CarryWriter, TaskUpdate
from .guards import check_export


if TYPE_CHECKING:
    from ..contract.method import Method
    from .task import Learned


def write_update(folder: Path, learned: Learned, phase: str = "") -> list[Path]:
    """Write ``update.safetensors``, one file for each of the statistics, and ``update.json``.

    Args:
        folder: The task's directory.
        learned: From `TaskTraining.leave`.
        phase: Name of a further phase; its files are ``update_<phase>.safetensors`` and ``update_<phase>.json``.

    Returns:
        The files.
    """
    from safetensors.torch import save_file

    files = []
    own = f"update_{phase}" if phase else "update"
    for name, values in {own: learned.tensors, **learned.statistics}.items():
        files.append(folder / f"{name}.safetensors")
        write_with(files[-1], partial(save_file, values, metadata={"format": "pt"}))
    files.append(folder / f"{own}.json")
    write_json(files[-1], learned.meta)
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

    Raises:
        CompatibilityError: If the first carry is not what the method says that it is, see `Method.export`.
    """

    def produce(folder: Path) -> None:
        folder.mkdir(parents=True)
        writer = CarryWriter(folder)
        method.consolidate(previous, update, writer)
        if fill is not None:
            fill(writer)
        content = {"format": FORMAT, **about, "meta": writer.meta, "files": file_records(writer)}
        write_json(folder / "carry.json", content)
        if previous is None:
            check_export(method, Carry.open(folder))

    write_with(target, produce)


def copy_carry(carry: Carry, folder: Path) -> None:
    """Copy a carry without its replay buffer.

    Args:
        carry: The carry.
        folder: A new directory.
    """
    folder.mkdir(parents=True)
    writer = CarryWriter(folder)
    for name in carry.files:
        if not name.startswith("replay/"):
            writer.link(carry.path / name, name)
    about = {"method": carry.method, "tasks": list(carry.tasks), "base": carry.base}
    write_json(folder / "carry.json", {"format": FORMAT, **about, "meta": carry.meta, "files": file_records(writer)})


def file_records(writer: CarryWriter) -> dict[str, dict[str, Any]]:
    """Name -> ``{"sha256", "bytes"}`` of the files of a carry that is being made."""
    files = {}
    for name in writer.file_names():
        path = writer.path / name
        files[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return files
