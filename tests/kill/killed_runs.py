"""What the tests of this folder share: the recipe that is killed, and what must be equal afterwards."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import tiny
from fork_server import Ended
from method_cases import CASES

from cl_plugins.replay.store import CANDIDATES, TENSORS


TASKS = ("one", "two")
SAVE_STEPS, MAX_STEPS = 2, 5
METHODS = tuple(case.name for case in CASES if case.kill_everywhere)


def build(folder: Path) -> tuple[Path, Path]:
    """A model with dropout in its attention, so that the generators' state matters, and two tasks."""
    model, data = tiny.build_llava(folder / "model"), tiny.build_data(folder / "data", tasks=TASKS, train=12, test=4)
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.1
    (model / "config.json").write_text(json.dumps(config))
    return model, data


def recipe(
    model: Path, data: Path, out: Path, method: str = "inclora", tasks: tuple[str, ...] = TASKS, **more
) -> dict:
    """Checkpoints at steps 2, 4 and 5; with three batches in an epoch of task one and two in one of task two."""
    overrides = {"two": {"per_device_train_batch_size": 6, "lr_scheduler_type": "constant"}}
    block = {"task_overrides": {n: overrides[n] for n in tasks if n in overrides}, **more.pop("cl", {})}
    dropout = {"lora_dropout": 0.1} if method == "inclora" else {}
    keys = {"save_strategy": "steps", "save_steps": SAVE_STEPS, "max_steps": MAX_STEPS, **dropout, **more}
    return tiny.recipe(model, data, out, method, tasks=tasks, cl=block, **keys)


def results(out: Path) -> dict[str, bytes]:
    """Everything that must be equal, by name: matrix, metrics, predictions, updates, carry and final model."""
    names = [out / "matrix.json", out / "metrics.json"]
    for folder in ("predictions", "carry", "final"):
        names += [p for p in (out / folder).rglob("*") if p.is_file()]
    names += (out / "tasks").glob("*/update.*")
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(names)}


def file_names(out: Path) -> set[str]:
    """All files of a run."""
    return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}


def journal(out: Path) -> dict[str, dict]:
    """The finished steps, by key; a line that was torn is none."""
    path = out / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return {entry["step"]: entry for entry in (json.loads(line) for line in lines if line.endswith("\n"))}


def whole_checkpoints(out: Path, task: str) -> list[int]:
    """Global steps of the checkpoints that were written to their end."""
    folder = next((out / "tasks").glob(f"*_{task}"), out)
    return sorted(int(p.parent.name.rsplit("-")[-1]) for p in folder.glob("checkpoint-*/cl_complete.json"))


def tree(out: Path) -> dict[str, bytes]:
    """Names and content of all files but the note in the lock."""
    return {
        str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"
    }


def copy(source: Path, target: Path) -> Path:
    """Copy a run with its times and its hard links."""
    linked: dict[tuple[int, int], Path] = {}
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir(parents=True, exist_ok=True)
            continue
        stat = path.stat()
        to.parent.mkdir(parents=True, exist_ok=True)
        first = linked.setdefault((stat.st_dev, stat.st_ino), to)
        if first != to:
            os.link(first, to)
            continue
        to.write_bytes(path.read_bytes())
        os.utime(to, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return target


def differences(out: Path, reference: Path) -> list[str]:
    """What differs from the run that was never interrupted; empty if nothing does."""
    ours, theirs = results(out), results(reference)
    found = [f"content of {name}" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
    found += [f"only one has {name}" for name in sorted(file_names(out) ^ file_names(reference))]
    mine, other = journal(out), journal(reference)
    if list(mine) != list(other):
        found.append(f"order of the steps: {list(mine)} and {list(other)}")
    found += [f"details of {key}" for key in mine.keys() & other.keys() if _plain(mine[key]) != _plain(other[key])]
    return found


def _plain(entry: dict) -> tuple:
    details = {k: v for k, v in entry["details"].items() if k not in ("recovered", "restore_seconds")}
    return details, {name: record["sha256"] for name, record in entry["artefacts"].items()}


def settled(entry: dict) -> dict:
    """An entry without what consolidation takes out of it: the samples of a task that may stay, and its checksum."""
    samples = re.compile(rf".*/({re.escape(CANDIDATES)}|{re.escape(TENSORS)}[^/]*\.safetensors)")
    artefacts = {n: record for n, record in entry["artefacts"].items() if not samples.fullmatch(n)}
    return {**entry, "artefacts": artefacts, "checksum": None}


def done_twice(before: dict[str, dict], killed: Ended, resumed: Ended, out: Path) -> list[str]:
    """What was done again though it was finished when the run was killed; empty if nothing was.

    Args:
        before: The journal when the run was killed.
        killed: The run that was killed.
        resumed: The run that went on.
        out: The run's directory, now finished.
    """
    found = [f"step {key}" for key in resumed.steps if key in before]
    after = journal(out)
    found += [f"journal entry of {key}" for key, entry in before.items() if settled(after[key]) != settled(entry)]
    for task in TASKS:
        again = Counter(killed.optimizer + resumed.optimizer)
        repeated = [step for (name, step), count in again.items() if name == task and count > 1]
        if len(repeated) > SAVE_STEPS:
            found.append(f"optimizer steps {repeated} of {task}")
        steps = {step for name, step in again if name == task}
        if steps != set(range(1, MAX_STEPS + 1)):
            found.append(f"{task} was trained for the steps {sorted(steps)}")
    return found


def kind(label: str) -> str:
    """The label without the names of task, row and checkpoint: one kind of moment."""
    label = re.sub(r"0[12]_(one|two)", "TASK", label)
    label = re.sub(r"checkpoint-\d+", "checkpoint-N", label)
    return re.sub(r"(zero_shot|after_one|after_two)[/:](one|two)|:(one|two)", "CELL", label)
