"""The trainings of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Phase:
    """One training of a task: a journal step of its own, so that a killed run goes on after the last finished one.

    Attributes:
        name: Empty for the task's own training; else a name that stands in the journal and in the file name
            ``update_<name>.safetensors``.
        keys: LLaMA-Factory keys that hold for this phase (length, learning rate).
        records: Makes the phase's training records out of the task's own (both in the host's ``messages`` form, JSON
            types and media paths); None trains on the task's data as they are. Gets the name of the task and its records.
        samples: At most so many records of the task are handed to `records`, drawn with the task's seed; None for all.
    """

    name: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)
    records: Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]] | None = None
    samples: int | None = None
