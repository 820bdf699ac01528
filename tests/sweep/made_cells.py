"""Cells of a stream that is never trained, and a stand-in for the launch command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cl_plugins.run.journal import Journal
from cl_plugins.sweep.cells import make_cells


TASKS = ["one", "two", "three"]


def recipe(**keys):
    """A recipe whose base and data do not exist."""
    tasks = [{"name": n, "train": f"{n}_train", "test": f"{n}_test", "scorer": "exact_match"} for n in TASKS]
    block = {"stream": {"name": "toy", "tasks": tasks}, "method": {"name": "olora", "lambda_1": 0.25}}
    block |= keys.pop("cl", {})
    return {"model_name_or_path": "base", "dataset_dir": "data", "output_dir": "out", "seed": 7, "cl": block} | keys


def cells(saves, **options):
    return make_cells([("toy", recipe())], saves, **options)


def finish(cell, steps=("train:one", "finish")):
    """What a finished run leaves, as far as the ledger of a run without tests needs it."""
    cell.output_dir.mkdir(parents=True, exist_ok=True)
    (cell.output_dir / "run.json").write_text(json.dumps({"method": cell.method, "seed": cell.seed}))
    journal = Journal(cell.output_dir)
    for step in steps:
        journal.finish(step, 2.0, {f"{step[:5]}.safetensors": {"sha256": "0" * 64, "bytes": 10, "mtime_ns": 1}})


#: Takes the lock of the run as a run does, waits for the file `go`, and finishes.
LAUNCH = """
import json, signal, sys, time
from pathlib import Path
sys.path[:0] = {path!r}
import yaml
from cl_plugins.base.lock import RunLock
from cl_plugins.run.journal import Journal
root = Path(yaml.safe_load(open(sys.argv[-1]))["output_dir"])
folder = Path({folder!r})
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
with RunLock(root):
    with (folder / "starts").open("a") as file:
        file.write(root.name + "\\n")
    while not (folder / "go").exists():
        time.sleep(0.05)
    (root / "run.json").write_text(json.dumps({{"method": "x", "seed": 0}}))
    Journal(root).finish("finish", 1.0, {{}})
"""


def launcher(folder: Path) -> list[str]:
    """The command of the stand-in."""
    program = folder / "launch.py"
    program.write_text(LAUNCH.format(path=sys.path, folder=str(folder)))
    return [sys.executable, str(program)]


def starts(folder: Path) -> list[str]:
    """The runs that the stand-in has started, one entry a start."""
    path = folder / "starts"
    return path.read_text().split() if path.exists() else []
