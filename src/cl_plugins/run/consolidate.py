"""The step ``consolidate``: what a task leaves to the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.files import artefact
from ..contract.carry import Carry
from ..replay.encoding import ENTRY, encoding_of, next_encoding
from ..replay.keeping import filling
from ..replay.store import Buffer
from ..training.handover import write_carry
from .plan import Step
from .state import RunState


def consolidate(state: RunState, step: Step) -> dict[str, Any]:
    """Write the next carry to a temporary folder and replace the old one.

    Returns:
        Artefacts of the step.
    """
    task = str(step.task)
    target = state.root / "carry"
    if not _done(state, target, task):
        previous = state.carry if state.schedule == "sequential" else None
        update = state.update(task)

        about = {
            "method": state.config.method,
            "stream": state.config.stream.name,
            "tasks": list(_tasks(state, task)),
            "base": state.base_fingerprint,
        }
        fill = filling(state.config.replay, update, previous, _encoded(state, previous, task))
        write_carry(target, state.method, previous, update, about, fill)
    return artefact(state.root, target / "carry.json")


def _encoded(state: RunState, previous: Carry | None, task: str) -> dict[str, Any]:
    """For the settings of the next buffer: with which keys the samples of each task were encoded."""
    if not state.config.replay.enabled:
        return {}
    encoded = encoding_of(state.keys_of(task), state.host.sample_keys)
    return {ENTRY: next_encoding(Buffer.open(previous), task, encoded)}


def _tasks(state: RunState, task: str) -> tuple[str, ...]:
    earlier = state.carry.tasks if state.carry is not None else ()
    return (*(t for t in earlier if t != task), task)


def _done(state: RunState, target: Path, task: str) -> bool:
    """Whether the carry was written already, before a kill that came ahead of the line in the journal."""
    carry = state.carry
    return carry is not None and carry.path == target and carry.tasks == _tasks(state, task)
