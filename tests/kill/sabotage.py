"""Ends or starves a run at a chosen point: before, inside and after every durable write and every file of a checkpoint.

`install` wraps `cl_plugins.base.files.write_with`, through which every file of a run goes, and what the trainer calls while it
saves a checkpoint. Whenever one of these places is passed, a line ``point <n> <label>`` goes to a log outside the run; at
point ``at`` the action happens. Training steps and steps of the run are logged too, so that a test can see what was done twice.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sys
from pathlib import Path


class Saboteur:
    """Counts the points that this process passes.

    Args:
        root: The run's directory.
        log: Where the points are written to.
        at: Number of the point at which something happens, from 1; 0 for never; or its label. With "new" it happens at the
            first point that no process before has passed (see `seen`).
        seen: For "new": the file that remembers them. A point counts as another one when more steps are finished.
        action: "kill" (SIGKILL), "term" (SIGTERM), "int" (SIGINT), "full" (the write fails as on a full disk) or "fill" (fills the disk).
    """

    def __init__(
        self, root: Path, log: Path, at: int | str = 0, action: str = "kill", seen: Path | None = None
    ) -> None:
        self.root, self.at, self.action, self.seen = Path(root), at, action, seen
        self.count = 0
        self.saving: Path | None = None
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, line: str) -> None:
        os.write(self._log, (line + "\n").encode())

    def point(self, label: str) -> None:
        self.count += 1
        self.note(f"point {self.count} {label}")
        if not self._chosen(label):
            return
        self.at = 0
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.action == "int":
            os.kill(os.getpid(), signal.SIGINT)
        elif self.action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self.action == "fill":
            fill(self.root / ".ballast")

    def _chosen(self, label: str) -> bool:
        if self.at != "new":
            return self.at in (self.count, label)
        journal = self.root / "journal.jsonl"
        finished = len(journal.read_text().splitlines()) if journal.is_file() else 0
        key = f"{label} after {finished} steps"
        if key in (self.seen.read_text().splitlines() if self.seen.is_file() else []):
            return False
        with self.seen.open("a") as file:
            file.write(key + "\n")
        return True

    def name(self, path: str | os.PathLike[str]) -> str:
        path = Path(path)
        name = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name
        return re.sub(r"\.[0-9a-f]{8}\.tmp", ".tmp", name)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True:
                os.write(handle, b"\0" * size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    os.close(handle)


def rebind(original: object, replacement: object) -> None:
    """Replace a function in every module of ours that has imported it by name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("cl_plugins."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, replacement)


def install(saboteur: Saboteur) -> None:
    """Wrap the places; call it once, in the process that runs the recipe."""
    _wrap_writes(saboteur)
    _wrap_lines(saboteur)
    _wrap_renames(saboteur)
    _wrap_checkpoints(saboteur)
    _wrap_steps(saboteur)


def _wrap_writes(saboteur: Saboteur) -> None:
    from cl_plugins.base import files

    original = files.write_with

    def write_with(path, produce):
        name = saboteur.name(path)

        def produced(temporary):
            produce(temporary)
            saboteur.point(f"produced {name}")

        saboteur.point(f"before {name}")
        original(path, produced)
        saboteur.point(f"after {name}")

    rebind(original, write_with)


def _wrap_lines(saboteur: Saboteur) -> None:
    """A point before, in the middle of and after every line that is added to a file."""
    from cl_plugins.base import files

    original = files.append_line

    def append_line(path, line, **more):
        name = saboteur.name(path)
        saboteur.point(f"before line {name}")
        with open(path, "ab") as file:
            file.write(line[: len(line) // 2].encode())
        saboteur.point(f"torn line {name}")
        original(path, line[len(line) // 2 :], **more)
        saboteur.point(f"after line {name}")

    rebind(original, append_line)


def _wrap_renames(saboteur: Saboteur) -> None:
    """A point after each half of what takes two renames or more: replacing a directory, recovering it, moving a run aside."""
    rename = os.rename

    def renamed(source, target, **kwargs):
        rename(source, target, **kwargs)
        old, new = Path(source), Path(target)
        if new.name == f".{old.name}.old":
            saboteur.point(f"between {saboteur.name(old)}")
        elif old.name == f".{new.name}.old":
            saboteur.point(f"recovered {saboteur.name(new)}")
        elif old.parent == saboteur.root and new.parent != saboteur.root:
            saboteur.point(f"moved {saboteur.name(old)}")

    os.rename = renamed


def _wrap_checkpoints(saboteur: Saboteur) -> None:
    """A point before a checkpoint, at every file that is opened for it, after every file of tensors, and after it."""
    import safetensors.torch
    import torch

    from cl_plugins.training.exact import ExactTrainerMixin  # of both hosts

    save = ExactTrainerMixin._save_checkpoint

    def _save_checkpoint(self, *args, **kwargs):
        saboteur.saving = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        saboteur.point(f"before {saboteur.name(saboteur.saving)}")
        save(self, *args, **kwargs)
        saboteur.point(f"after {saboteur.name(saboteur.saving)}")
        saboteur.saving = None

    ExactTrainerMixin._save_checkpoint = _save_checkpoint

    def tensors(function, position):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            function(*args, **kwargs)
            target = args[position] if len(args) > position else kwargs.get("filename")
            if saboteur.saving is not None and isinstance(target, str | os.PathLike):
                saboteur.point(f"written {saboteur.name(target)}")

        return wrapper

    torch.save = tensors(torch.save, 1)
    safetensors.torch.serialize_file = tensors(safetensors.torch.serialize_file, 1)

    def audit(event, args):
        if event != "open" or saboteur.saving is None or not isinstance(args[0], str | os.PathLike):
            return
        path, flags = Path(args[0]), args[2] or 0
        if (
            flags & (os.O_WRONLY | os.O_RDWR)
            and path.is_relative_to(saboteur.saving)
            and not path.name.endswith(".tmp")
        ):
            saboteur.point(f"opening {saboteur.name(path)}")

    sys.addaudithook(audit)


def _wrap_steps(saboteur: Saboteur) -> None:
    from cl_plugins.run import runner
    from cl_plugins.training.exact import ExactTrainerMixin  # of both hosts

    training_step = ExactTrainerMixin.training_step

    def counted(self, *args, **kwargs):
        saboteur.note(f"optimizer {self._task} {self.state.global_step + 1}")
        return training_step(self, *args, **kwargs)

    ExactTrainerMixin.training_step = counted
    for kind in ("evaluate", "train", "consolidate", "finish"):
        function = getattr(runner, kind)

        def wrapper(state, *args, _function=function, _kind=kind, **kwargs):
            key = args[0].key if args else _kind
            saboteur.note(f"step {key}")
            saboteur.point(f"begin {key}")
            return _function(state, *args, **kwargs)

        setattr(runner, kind, wrapper)
