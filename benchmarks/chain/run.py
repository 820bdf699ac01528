"""The demo's IncLoRA stream as one run, against the same work by hand with ``llamafactory-cli``.

By hand: per task one training, one export of the merged model, and one prediction per test set seen so far, and before all of it
one prediction per test set with the base. Every one of these is a process of its own, as in a shell script.

Both sides train for the same number of steps in the same loop, so the longer the training, the nearer the ratio is to 1. The
second ratio leaves the training loops (the host's own ``train_runtime``) out of both sides: it is what the chain itself costs.

``python benchmarks/chain/run.py [--steps 20 200]`` prints seconds and ratios and writes ``benchmarks/chain/result.json``. The
first row is the demo as it is; ``--steps`` adds rows in which every task has that many.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml


TASKS = ("path", "neuro", "cell", "rad")
RECIPE = Path("examples/yaml/demo/inclora.yaml")
STREAM = Path("demo_data/stream.yaml")
CLI = str(Path(sys.executable).with_name("llamafactory-cli"))


def timed(arguments: list[str], log: Path) -> float:
    """Seconds of one process, from start to exit; its output goes to a file."""
    started = time.monotonic()
    with log.open("w") as file:
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with exit code {done.returncode}; see {log}")
    return time.monotonic() - started


def loops(log: Path) -> list[float]:
    """Seconds of every training loop in a log, as the host's trainer prints them."""
    return [float(found) for found in re.findall(r"'train_runtime': '([0-9.]+)'", log.read_text(errors="replace"))]


def lengths(steps: int | None) -> dict[str, int]:
    """Optimizer steps of every task: the same for all, or the demo's own."""
    if steps is not None:
        return dict.fromkeys(TASKS, steps)
    stream = yaml.safe_load(STREAM.read_text())
    return {task["name"]: task["defaults"]["max_steps"] for task in stream["tasks"]}


def one_run(work: Path, steps: int | None) -> dict[str, Any]:
    """The stream through cl_plugins, with its fixed costs."""
    out = work / "run"
    overrides = [] if steps is None else [f"max_steps={steps}"]
    begun = time.time()
    seconds = timed([CLI, "train", str(RECIPE), f"output_dir={out}", *overrides], work / "run.log")
    ended = time.time()
    entries = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    finished = {e["step"]: datetime.fromisoformat(e["time"]).timestamp() for e in entries}
    first = entries[0]
    in_loops = loops(work / "run.log")
    trained = [e["seconds"] for e in entries if e["step"].startswith("train:")]
    set_up = [seconds - loop for seconds, loop in zip(trained, in_loops, strict=True)]
    boundaries = []
    for number, entry in enumerate(e for e in entries if e["step"].startswith("consolidate:")):
        task = entry["step"].split(":")[1]
        restored = next(e for e in entries if e["step"].startswith(f"evaluate:after_{task}:"))
        following = set_up[number + 1] if number + 1 < len(set_up) else 0.0
        boundaries.append(entry["seconds"] + restored["details"].get("restore_seconds", 0.0) + following)
    return {
        "seconds": seconds,
        "start_to_first_step": finished[first["step"]] - first["seconds"] - begun,
        "last_step_to_exit": ended - finished[entries[-1]["step"]],
        "boundary_seconds": boundaries,
        "train_seconds": sum(trained),
        "loop_seconds": sum(in_loops),
        "evaluate_seconds": sum(e["seconds"] for e in entries if e["step"].startswith("evaluate:")),
    }


def by_hand(work: Path, steps: int | None) -> dict[str, Any]:
    """The same work as a chain of commands."""
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe.pop("cl")
    base = recipe["model_name_or_path"]
    shared = {k: recipe[k] for k in ("template", "dataset_dir", "cutoff_len", "report_to", "use_cpu") if k in recipe}
    times: dict[str, list[float]] = {"train": [], "export": [], "predict": []}

    def call(kind: str, name: str, command: str, keys: dict[str, Any]) -> None:
        file = work / f"{name}.yaml"
        file.write_text(yaml.safe_dump(keys))
        times[kind].append(timed([CLI, command, str(file)], work / f"{name}.log"))

    def predict(model: str, task: str, row: str) -> None:
        keys = {
            **shared, "model_name_or_path": model, "stage": "sft", "do_predict": True, "predict_with_generate": True,
            "finetuning_type": "full", "eval_dataset": f"{task}_test", "do_sample": False, "max_new_tokens": 24 if task == "rad" else 4,
            "per_device_eval_batch_size": recipe["per_device_eval_batch_size"], "output_dir": str(work / f"predict_{row}_{task}"),
        }  # fmt: skip
        call("predict", f"predict_{row}_{task}", "train", keys)

    for task in TASKS:
        predict(base, task, "zero_shot")
    model = base
    for number, task in enumerate(TASKS):
        adapter = work / f"adapter_{task}"
        keys = {
            **recipe,
            "model_name_or_path": model,
            "dataset": f"{task}_train",
            "output_dir": str(adapter),
            "max_steps": lengths(steps)[task],
        }
        call("train", f"train_{task}", "train", keys)
        merged = work / f"merged_{task}"
        export = {
            "model_name_or_path": model, "adapter_name_or_path": str(adapter), "template": recipe["template"], "finetuning_type": "lora",
            "export_dir": str(merged), "infer_dtype": "float32", "export_device": "cpu",
        }  # fmt: skip
        call("export", f"export_{task}", "export", export)
        model = str(merged)
        for seen in TASKS[: number + 1]:
            predict(model, seen, f"after_{task}")
    return {
        "seconds": sum(sum(v) for v in times.values()),
        "processes": sum(len(v) for v in times.values()),
        "loop_seconds": sum(sum(loops(work / f"train_{task}.log")) for task in TASKS),
        **{f"{k}_seconds": sum(v) for k, v in times.items()},
    }


def measure(work: Path, steps: int | None) -> dict[str, Any]:
    """Both sides at one length of training, printed and returned."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    print(f"\nsteps: {', '.join(f'{task} {count}' for task, count in lengths(steps).items())}", flush=True)
    ours = one_run(work, steps)
    print(
        f"one run         {ours['seconds']:7.1f} s, {ours['loop_seconds']:.1f} s of it in training loops", flush=True
    )
    hand = by_hand(work, steps)
    ratio = ours["seconds"] / hand["seconds"]
    besides = (ours["seconds"] - ours["loop_seconds"]) / (hand["seconds"] - hand["loop_seconds"])
    print(
        f"by hand         {hand['seconds']:7.1f} s in {hand['processes']} processes, {hand['loop_seconds']:.1f} s in loops"
    )
    print(f"ratio           {ratio:7.3f}  (target: at most 0.2)")
    print(f"besides loops   {besides:7.3f}")
    print(
        f"start to first step {ours['start_to_first_step']:.1f} s, last step to exit {ours['last_step_to_exit']:.1f} s"
    )
    print(
        "boundaries      " + ", ".join(f"{s:.2f} s" for s in ours["boundary_seconds"]) + "  (target: at most 1 s each)"
    )
    return {"steps": lengths(steps), "ratio": ratio, "ratio_besides_loops": besides, "one_run": ours, "by_hand": hand}


def main() -> int:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[], help="besides the demo's own lengths, so many for every task"
    )
    parser.add_argument("--work", type=Path, default=Path("saves/bench_chain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/chain/result.json"))
    args = parser.parse_args()
    if not STREAM.is_file():
        raise SystemExit("demo_data is missing; run `make demo` first")
    result = {"measured": [measure(args.work, steps) for steps in (None, *args.steps)], "python": platform.python_version(),
              "machine": platform.machine(), "cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
