"""Peak memory of `cl-plugins data prepare` at 10,000 and at 100,000 records: it must not grow with the number.

Writes synthetic raw files in the layout of every converter (`layouts.py`), a tenth as many test records as training
records, and prepares them, each in a process of its own with `--workers 1`. Records the peak resident memory of that process
as the kernel reports it. What grows by more than `SMALL` bytes per record is marked; `WHY` says what is held.

    python -m benchmarks.data.memory [--counts 10000 100000] [--only medical_cl trace.fomc] [--out FILE] [--table]

The result is written after every measurement, and the same command measures only what is missing; `--again` measures
everything. `--table` prints the table of a finished result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data.layouts import cases, write
from cl_plugins.data.prepare.registry import CONVERTERS, load


SMALL = 64  # bytes per record: ids and their sorted copies take eight each
#: Prepares one folder and prints what it took; a process of its own, so that the peak is this work's alone.
_MEASURED = """
import json, resource, sys, time
from pathlib import Path
from cl_plugins.data.prepare.engine import Request, prepare

def peak():
    try:  # of this program alone: ru_maxrss also counts what the parent held when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

stream, task, settings = sys.argv[3], sys.argv[4], json.loads(sys.argv[5])
made = prepare(Request(stream, Path(sys.argv[1]), Path(sys.argv[2]), tasks=(task,), workers=1, settings=settings))
records = sum(entry["records"] for entry in made.values())
dropped = sum(entry["dropped"]["count"] for entry in made.values())
spent = round(time.process_time(), 1)
print(json.dumps({"records": records, "dropped": dropped, "peak_bytes": peak(), "cpu_seconds": spent}))
"""
#: Case -> what it holds, where that grows by more than `SMALL`.
WHY = {
    "medical_cl.path (pickle)": "a pickle can only be read whole",
    "medical_cl.sur": "the annotations of one video, a record for every sixth",
    "medical_cl.cell": "class and folder of every labelled cell, since the split is drawn from all of them",
    "medical_cl.rad": "the list of names inside the zip file, and the concepts, which are joined by id",
    "coin.textvqa": "the answers of all annotators, which are joined by picture and question",
    "ucit.vizwiz_caption": "the file of captions, one JSON object",
    "ucit.flickr30k": "the file of captions, one JSON object",
}


def measure(stream: str, task: str, form: str, count: int) -> dict[str, Any]:
    """Peak memory, processor seconds and records of one converter and one number of records."""
    with tempfile.TemporaryDirectory(prefix="cl-data-") as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        settings = write(load(CONVERTERS[stream][task]), raw, count, max(16, count // 10), form)
        command = [sys.executable, "-c", _MEASURED, str(raw), f"{folder}/out", stream, task, json.dumps(settings)]
        environment = {**os.environ, "CL_PLUGINS_AUTOLOAD": "0"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{stream}.{task}: {done.stderr[-2000:]}")
        return dict(json.loads(done.stdout.splitlines()[-1]))


def name_of(stream: str, task: str, form: str) -> str:
    """How a case is called."""
    return f"{stream}.{task}" + (f" ({form})" if form else "")


def growth(found: dict[str, dict[str, Any]]) -> float:
    """Bytes per training record between the smallest and the largest number of them."""
    least, most = min(found, key=int), max(found, key=int)
    return (found[most]["peak_bytes"] - found[least]["peak_bytes"]) / max(int(most) - int(least), 1)


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The results as a Markdown table."""
    lines = ["| converter | records | peak | records | peak | bytes per record | what is held |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for name, found in results.items():
        ends, more = (found[min(found, key=int)], found[max(found, key=int)]), growth(found)
        cells = [f"{entry['records']:,} | {entry['peak_bytes'] / 2**20:.1f} MiB" for entry in ends]
        held = WHY.get(name, "**not said**") if more > SMALL else ""
        lines.append(f"| `{name}` | {' | '.join(cells)} | {more:.0f} | {held} |")
    return "\n".join(lines)


def main() -> int:
    """Measure every case and write the result; 1 if one grows without a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--only", nargs="+", default=[], help="streams, or STREAM.TASK")
    parser.add_argument("--again", action="store_true", help="measure also what the result has already")
    parser.add_argument("--table", action="store_true", help="only print the table of a result")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    known = json.loads(args.out.read_text())["results"] if args.out.is_file() and not args.again else {}
    results: dict[str, dict[str, dict[str, Any]]] = {}
    machine = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    report = {
        "what": "peak resident memory of `cl-plugins data prepare STREAM --task TASK --workers 1`, synthetic raw files",
        "machine": machine,
        "results": results,
    }
    for stream, task, form in cases(CONVERTERS):
        name = name_of(stream, task, form)
        if not args.table and (not args.only or {stream, f"{stream}.{task}"} & set(args.only)):
            found = {str(count): known.get(name, {}).get(str(count)) for count in args.counts}
            for count in args.counts:
                if found[str(count)] is None:
                    found[str(count)] = last = measure(stream, task, form, count)
                    peak = f"peak {last['peak_bytes'] / 2**20:.1f} MiB, {last['cpu_seconds']} s"
                    print(f"{name:30s} {last['records']:>7,} records: {peak}", flush=True)
                    results[name] = {k: v for k, v in found.items() if v is not None}
                    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            results[name] = {k: v for k, v in found.items() if v is not None}
        elif name in known:
            results[name] = known[name]
    print(table(results))
    if not args.table:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(growth(found) > SMALL and name not in WHY for name, found in results.items()))


if __name__ == "__main__":
    raise SystemExit(main())
