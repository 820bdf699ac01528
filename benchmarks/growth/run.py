"""How the time of a stream grows with its number of tasks.

Streams of tiny tasks (two optimizer steps, four test items, every task seen is tested after every task) are trained in a
process of their own. The seconds come from the journal, by kind of step; what is left of the wall time is start-up (the
imports of LLaMA-Factory), reading the data, and what the run does between its steps and at its end: matrix, journal, report.

``python benchmarks/growth/run.py [--tasks 10 30 60 100] [--method inclora]`` prints the table and writes
``benchmarks/growth/result.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from cl_plugins.testing import tiny


CLI = str(Path(sys.executable).with_name("llamafactory-cli"))
KINDS = ("train", "consolidate", "evaluate", "finish")


def measure(model: Path, count: int, method: str, work: Path) -> dict[str, Any]:
    """One stream.

    Args:
        model: The base.
        count: Number of tasks.
        method: Name of the method.
        work: A folder for data and run.

    Returns:
        Wall time and seconds by kind of step.
    """
    tasks = tuple(f"t{number:03d}" for number in range(count))
    data = tiny.build_data(work / "data", tasks, train=8, test=4, text_only=True)
    cl = {"eval": {"scope": "seen", "zero_shot": False, "max_new_tokens": 2}}
    keys = tiny.recipe(model, data, work / "run", method, tasks, text_only=True, max_steps=2, cl=cl)
    recipe = work / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(keys, sort_keys=False))
    log = work / "run.log"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(
            [CLI, "train", str(recipe)], stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        )
    wall = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"the stream of {count} tasks failed; see {log}:\n{log.read_text()[-3000:]}")
    entries = [json.loads(line) for line in (work / "run" / "journal.jsonl").read_text().splitlines()]
    seconds = {kind: sum(e["seconds"] for e in entries if e["step"].split(":")[0] == kind) for kind in KINDS}
    return {"tasks": count, "steps": len(entries), "wall": wall, **seconds}


def start_up() -> float:
    """Seconds that `llamafactory-cli` needs to import what a training imports."""
    code = "import llamafactory.cli, llamafactory.train.tuner"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.monotonic() - started


def table(rows: list[dict[str, Any]], imports: float) -> str:
    """The rows as a Markdown table, with the share of the wall time that is spent outside start-up and steps."""
    head = "| tasks | steps | wall s | train | consolidate | evaluate | finish | between steps s | of the wall |"
    lines = [head, "|" + " ---: |" * 9]
    for row in rows:
        between = row["wall"] - imports - sum(row[kind] for kind in KINDS)
        cells = [row["tasks"], row["steps"], f"{row['wall']:.1f}", *(f"{row[kind]:.1f}" for kind in KINDS)]
        cells += [f"{between:.1f}", f"{100 * between / row['wall']:.0f} %"]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 30, 60, 100])
    parser.add_argument("--method", default="inclora")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as scratch:
        model = tiny.build_llama(Path(scratch) / "model")
        imports = start_up()
        for count in args.tasks:
            work = Path(scratch) / str(count)
            work.mkdir()
            rows.append(measure(model, count, args.method, work))
            print(table(rows, imports), flush=True)
    machine = {"cpu_count": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    content = {"method": args.method, "imports": imports, "rows": rows, "machine": machine}
    args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
