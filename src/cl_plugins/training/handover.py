"""What a finished training leaves: the update, the statistics, and what is needed to use them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import RunStateError
from ..base.files import write_with
from ..contract.carry import FILE, Carry, CarryWriter, Meta, TaskUpdate
from ..records.carry import CarryRecord, UpdateRecord
from ..records.files import FileRecord, record_of, table_problems
from .guards import check_export, plain


if TYPE_CHECKING:
    from ..contract.method import Method
    from .task import Learned


UPDATE, TENSORS = "update.json", "update.safetensors"


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
    UpdateRecord.write(files[-1], {"meta": learned.meta, "files": {p.name: record_of(p).plain() for p in files[:-1]}})
    return files


def read_update(folder: Path, task: str) -> TaskUpdate:
    """The update that a finished training left, compared with the hashes in ``update.json``.

    Args:
        folder: The task's directory.
        task: Name of the task.

    Raises:
        RunStateError: Naming every file that is missing or differs.
    """
    record = UpdateRecord.read(folder / UPDATE)
    there = {
        n: r for n, r in record.files.items() if n == TENSORS or os.path.lexists(folder / n)
    }  # some are tidied away
    if found := table_problems(folder, there, UpdateRecord.fix(), UPDATE):
        raise RunStateError(found)
    return TaskUpdate(folder / TENSORS, Meta(record.plain_meta(), folder / UPDATE), task)


def write_carry(
    target: Path,
    method: Method,
    previous: Carry | None,
    update: TaskUpdate,
    about: dict[str, Any],
    fill: Callable[[CarryWriter], None] | None = None,
) -> None:
    """Let a method write the next carry to a temporary folder, then replace the old one.

    Args:
        target: The carry's directory.
        method: The method.
        previous: The carry so far; may be in ``target``.
        update: What the task left.
        about: ``method``, ``stream``, ``tasks`` and ``base`` of ``carry.json``.
        fill: Writes the replay buffer.

    Raises:
        CompatibilityError: If ``writer.meta`` is no JSON, or the first carry is not what the method says that it is, see
            `Method.export`.
    """

    def produce(folder: Path) -> None:
        folder.mkdir(parents=True)
        writer = CarryWriter(folder)
        method.consolidate(previous, update, writer)
        if fill is not None:
            fill(writer)
        files = file_records(writer, _known(previous, update.tensors.parent))
        meta = plain(method, "writer.meta", writer.meta)
        CarryRecord.write(folder / FILE, {**about, "meta": meta, "files": files}, indent=2)
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
            writer.link(carry.file(name), name)
    about = {"method": carry.method, "stream": carry.stream, "tasks": list(carry.tasks), "base": carry.base}
    CarryRecord.write(folder / FILE, {**about, "meta": carry.meta, "files": file_records(writer)}, indent=2)


def file_records(
    writer: CarryWriter, known: Mapping[tuple[int, int], FileRecord] | None = None
) -> dict[str, dict[str, Any]]:
    """Name -> ``{"sha256", "bytes"}`` of the files of a carry that is being made.

    Args:
        writer: The carry.
        known: Device and inode -> the record of files that have been read before. A file that the carry has as a link to one
            of them is not read again: a chain of large updates would be read from its start after every task.
    """
    found = {}
    for name in writer.file_names():
        status = (writer.path / name).stat()
        record = (known or {}).get((status.st_dev, status.st_ino))
        if record is None or record.bytes != status.st_size:
            record = record_of(writer.path / name)
        found[name] = {"sha256": record.sha256, "bytes": record.bytes}
    return found


def _known(previous: Carry | None, task: Path) -> dict[tuple[int, int], FileRecord]:
    """The records of the files that the next carry can link: those of the carry so far and of what a task left."""
    records: dict[Path, FileRecord] = {}
    if previous is not None and not previous.linked:
        records |= {previous.path / name: FileRecord.model_validate(r) for name, r in previous.files.items()}
    for path in sorted(task.glob("update*.json")):
        records |= {task / name: record for name, record in UpdateRecord.read(path).files.items()}
    found = {}
    for path, record in records.items():
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            found[status.st_dev, status.st_ino] = record
    return found
