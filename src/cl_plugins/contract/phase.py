"""The trainings of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Phase:
    """One training of a task: a separate journal step, so that a killed run resumes after the last finished one.

    Attributes:
        name: Empty for the task's own training; else a word for the journal (``train:<task>:<name>``) and in the
            file names ``update_<name>.safetensors`` and ``update_<name>.json``.
        keys: The host's keys that hold for this phase (length, learning rate); they win over the task's own.
        samples: What it trains on: the task's ``own`` samples, or the ``kept`` ones: those in the replay buffer, and
            those that this task leaves for it. `Method.phase_sample` may change each of them.
        since: Number of the task that has this phase first, counted over the carry; earlier tasks skip it.
    """

    name: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)
    samples: Literal["own", "kept"] = "own"
    since: int = 1
