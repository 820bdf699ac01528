"""Peak memory of `cl-plugins data prepare` at 10,000 and at 100,000 records: it must not grow with the number.

Writes synthetic records in MLLM-CL's form for each count (one small picture per record) and prepares them with a converter of
its own kind (Medical-CL's Path) and with one that all LLaVA-style benchmarks share (MLLM-CL's RS), each in a process of
its own with `--workers 1`. Records the peak resident memory of that process as the kernel reports it.

    python benchmarks/data/memory.py [--counts 10000 100000] [--out benchmarks/data/result.json]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


#: Prepares one folder and prints what it took; a process of its own, so that the peak is this work's alone.
_MEASURED = """
import json, resource, sys, time
from pathlib import Path
from cl_plugins.data.prepare.engine import Request, prepare
started = time.monotonic()
stream, task = sys.argv[3:]
made = prepare(Request(stream, Path(sys.argv[1]), Path(sys.argv[2]), tasks=(task,), workers=1))
seconds = time.monotonic() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
entry = made[f"{stream}_{task}_train"]
print(json.dumps({"records": entry["records"], "peak_bytes": peak, "seconds": round(seconds, 1)}))
"""


#: (stream, task) -> the folder that its converter reads.
CASES = {("medical_cl", "path"): "Med", ("mllm_cl", "rs"): "RS"}


def synthesise(folder: Path, count: int) -> None:
    """Write ``data/{train,test}.json`` with ``count`` training records and 16 test records; `CASES` call it by other names."""
    rng = np.random.default_rng(0)
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    for name in CASES.values():
        (folder / name).symlink_to("data")
    for split, number in (("train", count), ("test", 16)):
        with (folder / "data" / f"{split}.json").open("w", encoding="utf-8") as file:
            file.write("[")
            for i in range(number):
                name = f"{split}_{i:06d}.png"
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(
                    buffer, "PNG", compress_level=1
                )
                (images / name).write_bytes(buffer.getvalue())
                turns = [
                    {"from": "human", "value": f"<image>\nWhat is the number of this picture? It is not {i + 1}."},
                    {"from": "gpt", "value": f"number {i}"},
                ]
                record = {"question_id": str(i), "image": f"images/{name}", "conversations": turns}
                if split == "test":
                    record = {"question_id": str(i), "image": f"images/{name}", "text": "what?", "answer": f"{i}"}
                file.write(("," if i else "") + "\n" + json.dumps(record))
            file.write("\n]\n")


def measure(count: int) -> dict[str, dict[str, float]]:
    """Peak memory, seconds and records of one count, by converter."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="cl-data-") as folder:
        raw = Path(folder) / "raw"
        synthesise(raw, count)
        for stream, task in CASES:
            command = [sys.executable, "-c", _MEASURED, str(raw), str(Path(folder) / f"out_{task}"), stream, task]
            environment = {**os.environ, "CL_PLUGINS_AUTOLOAD": "0"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found[f"{stream}.{task}"] = dict(json.loads(done.stdout.splitlines()[-1]))
    return found


def main() -> int:
    """Measure every count and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    started = time.monotonic()
    results: dict[str, list[dict[str, float]]] = {f"{stream}.{task}": [] for stream, task in CASES}
    for count in args.counts:
        for name, last in measure(count).items():
            results[name].append(last)
            peak = f"peak {last['peak_bytes'] / 2**20:.1f} MiB, {last['seconds']} s"
            print(f"{name:16s} {last['records']:>7,} records: {peak}", flush=True)
    growth = {}
    for name, found in results.items():
        more = (found[-1]["peak_bytes"] - found[0]["peak_bytes"]) / max(args.counts[-1] - args.counts[0], 1)
        growth[name] = round(more, 2)
        print(f"{name:16s} growth: {more:.1f} bytes per record")
    report = {
        "what": "peak resident memory of `cl-plugins data prepare STREAM --task TASK --workers 1`, synthetic records",
        "results": results,
        "growth_bytes_per_record": growth,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "page_bytes": resource.getpagesize(),
        "seconds": round(time.monotonic() - started, 1),
    }
    args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
