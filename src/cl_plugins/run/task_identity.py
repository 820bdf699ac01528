"""What one task's training depends on, as one hash: it stands in the marks of the trainer's checkpoints.

``run.json`` says what a directory was made for. Where it is gone, or a checkpoint was copied in from elsewhere, a
checkpoint would be resumed under another recipe, without a word.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..base.outside import read_json
from .record import FREE


if TYPE_CHECKING:
    from ..contract.carry import Carry
    from .state import RunState


def task_identity(state: RunState, task: str, carry: Carry | None) -> str:
    """The hash of a task's keys, data, method, seed, base, and of what the earlier tasks left.

    Keys that change no number, and places of files, do not count: a moved folder is no other data set. Neither does the
    replay buffer, from which samples may be deleted while a task is trained.

    Args:
        state: The run, whose ``run.json`` is written.
        task: Name of the task, or ``joint``.
        carry: What the training starts from.
    """
    stream, config = state.config.stream, state.config
    joint = task not in stream.task_names
    keys = {**state.host_keys, **({} if joint else config.overrides_for(task))}
    free = {*FREE, *state.host.path_keys}
    tasks = stream.tasks if joint else (stream.task(task),)
    names = {name for t in tasks for name in t.train}
    valid = {name for t in tasks for name in t.valid} if state.host.validates(keys) else set()
    data: dict[str, Any] = read_json(state.root / "run.json").get("data") or {}
    updates = carry.files if carry is not None else {}
    about = {
        "keys": {key: value for key, value in keys.items() if key not in free and value is not None},
        "task": task,
        "train": sorted(names),
        **({"valid": sorted(valid)} if valid else {}),
        "data": {key: value for key, value in data.items() if key.rpartition("/")[2] in names | valid},
        "seed": state.seed(task),
        "method": [config.method, config.method_options],
        "replay": asdict(config.replay),
        "base": [state.base_fingerprint.get(key) for key in ("sha256", "tokenizer", "settings")],
        "carry": {name: record["sha256"] for name, record in updates.items() if not name.startswith("replay/")},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
