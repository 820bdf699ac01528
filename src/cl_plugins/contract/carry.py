"""The carry on disk: ``carry.json`` and safetensors files, written under a temporary name and then renamed.

A carry may come from an untrusted source. Its names are checked when it is opened, a file is used only if it is in ``files``
and has its hash, and no link is followed.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..base.words import restore
from ..records.carry import CarryRecord
from ..records.files import FileRecord, file_problem, table_problems, unlisted
from ..records.names import is_carry_file
from ..records.record import shown


if TYPE_CHECKING:
    from torch import Tensor

    from .low_rank import LowRankUpdate


FORMAT = CarryRecord.FORMAT
FILE = "carry.json"


@dataclass(frozen=True)
class TaskUpdate:
    """One task's update on disk.

    Attributes:
        tensors: Path of the safetensors file.
        meta: What `Method.describe_update` said.
        task: Name of the task.
    """

    tensors: Path
    meta: dict[str, Any]
    task: str = ""

    def load(self) -> dict[str, Tensor]:
        """Read the tensors (memory-mapped where the platform can)."""
        return read_tensors(self.tensors)

    def low_rank(self) -> LowRankUpdate:
        """Read the tensors as a low-rank update."""
        from .low_rank import LowRankUpdate

        return LowRankUpdate.from_state(self.load(), self.meta)

    def phase(self, name: str) -> Path:
        """The tensors of a further phase, see `cl_plugins.contract.phase.Phase`."""
        return self.tensors.with_name(f"update_{name}.safetensors")

    def statistic(self, name: str) -> Path:
        """The file of one of `Method.statistics`, with the tensors of a task that has just been trained."""
        return self.tensors.with_name(f"{name}.safetensors")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        RunStateError: If it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        fix = restore("Restore it from a copy")
        raise RunStateError(Problem(str(path), f"cannot be read ({error}).", fix)) from error


class Meta(dict[str, Any]):
    """What a method wrote in addition to its tensors; an entry that is missing is an error of the file, not of the program.

    Args:
        content: The entries.
        where: The file.
    """

    def __init__(self, content: dict[str, Any], where: Path) -> None:
        super().__init__({key: _with_place(value, where) for key, value in content.items()})
        self._where = where

    def __missing__(self, key: str) -> Any:
        """Raise the error.

        Raises:
            RunStateError: Always.
        """
        fix = "Copy the whole carry directory again from its source."
        raise RunStateError(Problem(str(self._where), f"'meta' has no {shown(repr(key))}.", fix))


def _with_place(value: Any, where: Path) -> Any:
    if isinstance(value, dict):
        return Meta(value, where)
    return [_with_place(item, where) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Carry:
    """Everything that a method passes to the next task.

    Attributes:
        path: The directory.
        tasks: Names of the tasks that went into it, in order.
        method: Name of the method that made it.
        meta: What the method wrote in addition to the tensors.
        base: Fingerprint of the base.
        files: File name -> {"sha256", "bytes"}.
        stream: Name of the stream it was made in; None where it is not known.
        identity: One hash over what the next task starts from.
        linked: Whether its files are symbolic links that this process has made, to files that it has verified.
    """

    path: Path
    tasks: tuple[str, ...]
    method: str
    meta: dict[str, Any]
    base: dict[str, Any]
    files: dict[str, dict[str, Any]]
    stream: str | None = None
    identity: str = ""
    linked: bool = False

    @classmethod
    def open(cls, path: Path) -> Carry:
        """Read ``carry.json``.

        Raises:
            RunStateError: If there is no carry, or one that is damaged or of another format.
        """
        if not (path / FILE).is_symlink() and not (path / FILE).exists():
            raise RunStateError(
                Problem(str(path), "holds no carry.", "Give the directory of a run that finished a task.")
            )
        record = CarryRecord.read(path / FILE)
        files: dict[str, dict[str, Any]] = {name: dict(entry.plain()) for name, entry in record.files.items()}
        tasks = tuple(record.tasks)
        return cls(
            path,
            tasks,
            record.method,
            Meta(record.plain_meta(), path / FILE),
            record.base,
            files,
            record.stream,
            record.identity(),
        )

    def file(self, name: str) -> Path:
        """The path of one file, whose hash was compared first.

        Args:
            name: A name in ``files``.

        Raises:
            RunStateError: If the carry has no such file, or it is missing, a link, or differs from its hash.
        """
        if name not in self.files:
            fix = "Copy the whole carry directory again from its source."
            raise RunStateError(Problem(str(self.path / FILE), f"lists no file {shown(repr(name))}.", fix))
        if not self.linked:
            problem = file_problem(self.path, name, self._record(name), CarryRecord.FIX, FILE)
            if problem is not None:
                raise RunStateError(problem)
        return self.path / name

    def load(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file, whose hash was compared first."""
        return read_tensors(self.file(name))

    def verify(self) -> None:
        """Check that the directory holds exactly the files of ``files``, each with its hash.

        Raises:
            RunStateError: Naming every file that is missing, differs, is not listed, or is no regular file.
        """
        if self.linked:
            return
        records = {name: self._record(name) for name in self.files}
        found = table_problems(self.path, records, CarryRecord.FIX, FILE)
        known = {problem.where for problem in found}
        strange = unlisted(self.path, records, (FILE,), FILE)
        found += [problem for problem in strange if problem.where not in known]
        if found:
            raise RunStateError(found)

    def _record(self, name: str) -> FileRecord:
        return FileRecord.model_validate(self.files[name])


def carry_directory(path: Path) -> Path:
    """Where the carry is in the directory of a run, or in that of a carry itself.

    Args:
        path: Directory of a run or of a carry.

    Raises:
        RunStateError: If the run's ``carry`` is a symbolic link.
    """
    inner = path / "carry"
    if inner.is_symlink():
        fix = "Use the directory itself, or name the directory that the link points to."
        raise RunStateError(Problem(str(inner), "is a symbolic link, which is not followed.", fix))
    return inner if inner.is_dir() else path


@dataclass
class CarryWriter:
    """Collects the files of a carry in a separate directory.

    Attributes:
        path: The directory, new and empty.
        meta: What the method wants to find with the tensors.
    """

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)

    def link(self, source: Path, name: str) -> None:
        """Take over a file without copying its bytes where the file system can."""
        target = self._target(name)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, target)

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write tensors of the method's own; views and transposed ones are fine."""
        from safetensors.torch import save_file

        from .saving import saveable

        target = self._target(name)
        save_file(saveable(tensors), target, metadata={"format": "pt"})

    def file_names(self) -> list[str]:
        """Relative names of the files written so far, sorted."""
        return sorted(
            str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file() and p.name != "carry.json"
        )

    def _target(self, name: str) -> Path:
        """Where a file goes.

        Raises:
            RunStateError: If the name leads out of the carry, or is not one that `Carry.open` accepts.
        """
        if not is_carry_file(name):
            fix = "Use `<name>.safetensors` or `<folder>/<name>.safetensors`, of letters, digits, '_', '.' and '-'."
            raise RunStateError(
                Problem(str(self.path), f"{shown(repr(name))} is not a valid name for a file of a carry.", fix)
            )
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target
