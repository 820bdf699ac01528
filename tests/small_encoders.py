"""Recipes of two encoders whose records stand in JSON alone, so that a test can write the records that it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from encoder_runs import recipe
from tiny_encoders import CONFIGS


ENCODERS = {
    "motion": {"kind": "signal", "config": {**CONFIGS["signal"], "num_hidden_layers": 2}},
    "words": {"kind": "text", "config": {**CONFIGS["bert"], "num_hidden_layers": 2}},
}


def records(*labels: str, count: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """Records of some classes in turn.

    Args:
        *labels: The classes.
        count: Number of records.
        seed: Of their numbers.
    """
    draw = np.random.default_rng([seed, *labels[0].encode()])
    return [
        {
            "label": labels[i % len(labels)],
            "motion": draw.normal(size=(32, 2)).round(3).tolist(),
            "words": f"{labels[i % len(labels)].strip()} w{i % 2}",
        }
        for i in range(count)
    ]


def write(folder: Path, sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Write data sets.

    Args:
        folder: A new or existing folder.
        sets: Name -> records.
    """
    folder.mkdir(exist_ok=True)
    for name, found in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    (folder / "dataset_info.json").write_text(json.dumps({name: {"file_name": f"{name}.jsonl"} for name in sets}))
    return folder


def stream(folder: Path, *tasks: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The data sets of tasks ``t1``, ``t2``, ...

    Args:
        folder: Where they are going to be; not written.
        *tasks: The classes of each task.
    """
    found = {}
    for number, labels in enumerate(tasks, start=1):
        found[f"{number}_train"] = records(*labels, seed=number)
        found[f"{number}_test"] = records(*labels, count=4, seed=100 + number)
    return found


def small_recipe(data: Path, out: Path, method: dict | None = None, *, tasks: int = 2, **more: Any) -> dict[str, Any]:
    """A recipe of the first tasks.

    Args:
        data: From `write`.
        out: The run's directory.
        method: ``cl.method``; crossmodal by default.
        tasks: How many.
        **more: As for `encoder_runs.recipe`.
    """
    named = [{"name": f"t{n}", "train": f"{n}_train", "test": f"{n}_test"} for n in range(1, tasks + 1)]
    block = {"stream": {"name": "toy", "tasks": named}, **more.pop("cl", {})}
    return recipe(data, out, method, cl=block, **{"encoders": ENCODERS, "max_steps": 2, "save_strategy": "no", **more})
