"""The step ``consolidate``: what a task leaves to the next one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..adapters.carry import FORMAT, Carry, CarryWriter, TaskUpdate
from ..methods import Method
from ..replay.keeping import filling
from .files import artefact, sha256, write_json, write_with
from .plan import Step
from .state import RunState


def consolidate(state: RunState, step: Step) -> dict[str, Any]:
    """Write the next carry beside the old one and put it in its place.

    Returns:
        Artefacts of the step.
    """
    task = str(step.task)
    target = state.root / "carry"
    done = _existing(target)
    if done is None or done.tasks != _tasks(state, task):
        previous = state.carry if state.schedule == "sequential" else None
        update = state.update(task)

        about = {
            "method": state.config.method,
            "stream": state.config.stream.name,
            "tasks": list(_tasks(state, task)),
            "base": state.base_fingerprint,
        }
        write_carry(target, state.method, previous, update, about, filling(state.config.replay, update, previous))
    return artefact(state.root, target / "carry.json")


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


def _tasks(state: RunState, task: str) -> tuple[str, ...]:
    earlier = state.carry.tasks if state.carry is not None else ()
    return (*(t for t in earlier if t != task), task)


def _existing(target: Path) -> Carry | None:
    return Carry.open(target) if (target / "carry.json").is_file() else None
