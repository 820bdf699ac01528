"""How the time of a stream grows with its number of tasks.

Streams of tiny tasks (two optimizer steps, four test items, every task seen is tested after every task) are trained in a
process of their own. The seconds come from the journal: until the first step begins (imports, data: loading), by kind of
step, between the steps (matrix, journal, trackers), and behind the last one (report). What Python takes to end a process with
the host's libraries, two seconds also where nothing was done, counts as loading. "Outside" is all that is not loading,
training and answering: consolidating, writing the final model, between the steps, and the report.

``python benchmarks/growth/run.py [--tasks 10 30 60 100] [--method inclora]`` prints the table and writes
``benchmarks/growth/result.json`` after every stream; other numbers of tasks that were measured before stay in it. Seconds of
the wall clock need an idle machine; the load at the beginning and at the end of each stream is in the result. The same is
measured in processor seconds (`child.py`), which leave out the waiting for the disk and are the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cl_plugins.testing import tiny


CHILD = Path(__file__).with_name("child.py")
KINDS = ("train", "evaluate", "consolidate", "finish")
USEFUL = ("loading", "train", "evaluate")
PACKAGES = ("cl-plugins", "llamafactory", "torch", "transformers", "peft", "datasets")


def measure(model: Path, count: int, method: str, work: Path) -> dict[str, Any]:
    """One stream.

    Args:
        model: The base.
        count: Number of tasks.
        method: Name of the method.
        work: A folder for data and run.

    Returns:
        Wall time, seconds by what they were spent on and ``outside`` as a share; the same of the processor.
    """
    tasks = tuple(f"t{number:03d}" for number in range(count))
    data = tiny.build_data(work / "data", tasks, train=8, test=4, text_only=True)
    cl = {"eval": {"scope": "seen", "zero_shot": False, "max_new_tokens": 2}}
    keys = tiny.recipe(model, data, work / "run", method, tasks, text_only=True, max_steps=2, cl=cl)
    recipe = work / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(keys, sort_keys=False))
    log, seconds = work / "run.log", work / "seconds.json"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    load = [round(os.getloadavg()[0], 2)]
    before, started = _processor(), time.time()
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, str(CHILD), str(recipe), str(seconds)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
    ended, processor = time.time(), _processor() - before
    if done.returncode:
        raise SystemExit(f"the stream of {count} tasks failed; see {log}:\n{log.read_text()[-3000:]}")
    lines = (work / "run" / "journal.jsonl").read_text().splitlines()
    used = json.loads(seconds.read_text())
    found = spent([json.loads(line) for line in lines], started, used.pop("done"), ended)
    used["loading"] += processor - sum(used.values())
    load.append(round(os.getloadavg()[0], 2))
    return {
        "tasks": count,
        "steps": len(lines),
        **found,
        "processor": shares({"wall": processor, **used}),
        "load": load,
    }


def _processor() -> float:
    """Processor seconds of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spent(entries: list[dict[str, Any]], started: float, done: float, ended: float) -> dict[str, float]:
    """What the seconds of a run were spent on.

    Args:
        entries: Its journal.
        started: When its process started, in seconds since 1970.
        done: When the run was done, and Python began to end the process.
        ended: When it ended.
    """
    ends = [datetime.fromisoformat(entry["time"]).timestamp() for entry in entries]
    found = {kind: sum(e["seconds"] for e in entries if e["step"].split(":")[0] == kind) for kind in KINDS}
    wall, report = ended - started, done - ends[-1]
    loading = ends[0] - entries[0]["seconds"] - started + ended - done
    between = wall - loading - report - sum(found.values())
    return shares({"wall": wall, "loading": loading, **found, "between": between, "report": report})


def shares(found: dict[str, float]) -> dict[str, float]:
    """Seconds, and ``outside``: the share of ``wall`` that is not in `USEFUL`."""
    outside = (found["wall"] - sum(found[name] for name in USEFUL)) / found["wall"]
    return {**{name: round(seconds, 2) for name, seconds in found.items()}, "outside": round(outside, 4)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, with the share of the time that is outside of loading, training and answering.

    Each number of seconds is of the wall clock, with that of the processor behind it.
    """
    names = ("wall", *USEFUL, "consolidate", "finish", "between", "report")
    head = f"| tasks | steps | {' | '.join(f'{name} s' for name in ('all', *names[1:]))} | outside |"
    lines = [head, "|" + " ---: |" * (len(names) + 3)]
    for row in rows:
        processor = row["processor"]
        cells = [row["tasks"], f"{row['steps']:,}", *(f"{row[name]:.1f} ({processor[name]:.1f})" for name in names)]
        cells.append(f"{100 * row['outside']:.1f} % ({100 * processor['outside']:.1f} %)")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where it was measured, and with which versions."""
    return {
        "processor": next(
            (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
            platform.processor(),
        ),
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 30, 60, 100])
    parser.add_argument("--method", default="inclora")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    known = json.loads(args.out.read_text()) if args.out.is_file() else {}
    same = (known.get("method"), known.get("machine")) == (args.method, machine())
    rows: list[dict[str, Any]] = [row for row in known["rows"] if row["tasks"] not in args.tasks] if same else []
    with tempfile.TemporaryDirectory(prefix="growth-") as scratch:
        model = tiny.build_llama(Path(scratch) / "model")
        for count in args.tasks:
            work = Path(scratch) / str(count)
            work.mkdir()
            rows.append(measure(model, count, args.method, work))
            print(table(rows[-1:]), flush=True)
            rows.sort(key=lambda row: int(row["tasks"]))
            content = {"method": args.method, "rows": rows, "machine": machine()}
            args.out.write_text(json.dumps(content, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
