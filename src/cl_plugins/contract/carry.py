"""The carry on disk: ``carry.json`` and safetensors files, written beside and then renamed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError


if TYPE_CHECKING:
    from torch import Tensor

    from .low_rank import LowRankUpdate


FORMAT = 1


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
        """The file of one of `Method.statistics`, beside the tensors of a task that has just been trained."""
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
        fix = "Restore it from a copy, or start the run again with `cl.restart: true`."
        raise RunStateError(Problem(str(path), f"cannot be read ({error}).", fix)) from error


@dataclass(frozen=True)
class Carry:
    """Everything that a method hands to the next task.

    Attributes:
        path: The directory.
        tasks: Names of the tasks that went into it, in order.
        method: Name of the method that made it.
        meta: What the method wrote beside the tensors.
        base: Fingerprint of the base.
        files: File name -> {"sha256", "bytes"}.
    """

    path: Path
    tasks: tuple[str, ...]
    method: str
    meta: dict[str, Any]
    base: dict[str, Any]
    files: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: Path) -> Carry:
        """Read ``carry.json``.

        Raises:
            RunStateError: If there is no carry, or one of another format.
        """
        file = path / "carry.json"
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                fix = "Update cl-plugins."
                raise RunStateError(
                    Problem(str(file), f"has format {data['format']}; this version reads {FORMAT}.", fix)
                )
            return cls(path, tuple(data["tasks"]), data["method"], data["meta"], data["base"], data["files"])
        except FileNotFoundError as error:
            raise RunStateError(
                Problem(str(path), "holds no carry.", "Give the directory of a run that finished a task.")
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunStateError(Problem(str(file), f"is damaged ({error!r}).", "Restore it from a copy.")) from error

    def load(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file."""
        return read_tensors(self.path / name)

    def verify(self) -> None:
        """Check every file against its hash.

        Raises:
            RunStateError: Naming every file that is missing or differs.
        """
        from ..base.files import sha256

        found = []
        for name, record in self.files.items():
            file = self.path / name
            if not file.is_file():
                found.append(Problem(str(file), "is missing.", "Copy the whole carry directory."))
            elif sha256(file) != record["sha256"]:
                found.append(
                    Problem(str(file), "differs from its hash in carry.json.", "Copy it again from its source.")
                )
        if found:
            raise RunStateError(found)


@dataclass
class CarryWriter:
    """Collects the files of a carry in a directory of its own.

    Attributes:
        path: The directory, new and empty.
        meta: What the method wants to find beside the tensors.
    """

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)

    def link(self, source: Path, name: str) -> None:
        """Take over a file without copying its bytes where the file system can."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, target)

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write tensors of the method's own."""
        from safetensors.torch import save_file

        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target, metadata={"format": "pt"})

    def file_names(self) -> list[str]:
        """Relative names of the files written so far, sorted."""
        return sorted(
            str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file() and p.name != "carry.json"
        )
