"""Directories of runs with a journal, made without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_plugins.records.run import write_journal, write_run


def make(root: Path, finished: list[str], **record: Any) -> Path:
    """A run of two tasks with some finished steps."""
    root.mkdir(parents=True)
    tasks = [{"name": name, "train": [name], "test": [name]} for name in ("one", "two")]
    value = {
        "recipe": {"model_name_or_path": "base", "cl": {"method": {"name": "seqlora"}, "eval": {"zero_shot": False}}},
        "stream": {"name": "pair", "tasks": tasks},
        "method": "seqlora",
    }
    write_run(root, {**value, **record})
    lines = [
        {"step": step, "seconds": 30.0, "artefacts": {}, "time": "2026-01-01T00:00:00+00:00", "details": {}}
        for step in finished
    ]
    if lines:
        write_journal(root, lines)
    return root


ALL = [
    "train:one",
    "consolidate:one",
    "evaluate:after_one:one",
    "train:two",
    "consolidate:two",
    "evaluate:after_two:one",
    "evaluate:after_two:two",
    "finish",
]
