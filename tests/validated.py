"""Tiny tasks with validation sets."""

from __future__ import annotations

import json

import tiny
from running import go, recipe


VALID = {"eval_strategy": "steps", "eval_steps": 1}
BEST = {**VALID, "load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}


def add_valid(data, tasks=("one", "two"), count=5):
    """Give tasks of a data folder a validation set, ``<task>_valid``: other records with other ids."""
    file = data / "dataset_info.json"
    info = json.loads(file.read_text())
    for number, task in enumerate(tasks):
        records = json.loads((data / f"{task}_train.json").read_text())[: count + number]
        records = [{**record, "id": f"valid-{task}-{i}"} for i, record in enumerate(records)]
        (data / f"{task}_valid.json").write_text(json.dumps(records))
        info[f"{task}_valid"] = {**info[f"{task}_train"], "file_name": f"{task}_valid.json"}
    file.write_text(json.dumps(info))
    return data


def stream(tasks=("one", "two"), valid=None):
    """The tiny stream with validation sets, of all tasks or of some."""
    made = tiny.stream(tasks)
    for task in made["tasks"]:
        if valid is None or task["name"] in valid:
            task["valid"] = f"{task['name']}_valid"
    return made


def validated(model, data, out, method="inclora", tasks=("one", "two"), *, cl=None, valid=None, **keys):
    """A recipe of short text tasks with validation sets and without tests."""
    block = {"eval": {"scope": "none"}, "stream": stream(tasks, valid), **(cl or {})}
    return recipe(model, data, out, method, tasks, cl=block, **{**VALID, **keys})


def losses(out, task):
    """Step and validation loss, from the trainer's own log of a finished task."""
    history = json.loads((out / "tasks" / task / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]


def details(out, step):
    """What the journal says of a step."""
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    return next(line["details"] for line in lines if line["step"] == step)


__all__ = ["BEST", "VALID", "add_valid", "details", "go", "losses", "stream", "validated"]
