"""The demo's IncLoRA stream as one run, against the same work by hand with ``llamafactory-cli``.

By hand: per task one training, one export of the merged model, and one prediction per test set seen so far, and before all of it
one prediction per test set with the base. Every one of these is a process of its own, as in a shell script.

``python benchmarks/chain/run.py [--steps 200]`` prints seconds and ratios and writes ``benchmarks/chain/result.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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


def one_run(work: Path, steps: int) -> dict[str, Any]:
    """The stream through cl_plugins, with its fixed costs."""
    out = work / "run"
    begun = time.time()
    seconds = timed([CLI, "train", str(RECIPE), f"output_dir={out}", f"max_steps={steps}"], work / "run.log")
    ended = time.time()
    entries = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    finished = {e["step"]: datetime.fromisoformat(e["time"]).timestamp() for e in entries}
    first = entries[0]
    boundaries = []
    for entry in entries:
        if entry["step"].startswith("consolidate:"):
            task = entry["step"].split(":")[1]
            restored = next(e for e in entries if e["step"].startswith(f"evaluate:after_{task}:"))
            boundaries.append(entry["seconds"] + restored["details"].get("restore_seconds", 0.0))
    return {
        "seconds": seconds,
        "start_to_first_step": finished[first["step"]] - first["seconds"] - begun,
        "last_step_to_exit": ended - finished[entries[-1]["step"]],
        "boundary_seconds": boundaries,
        "train_seconds": sum(e["seconds"] for e in entries if e["step"].startswith("train:")),
        "evaluate_seconds": sum(e["seconds"] for e in entries if e["step"].startswith("evaluate:")),
    }


def by_hand(work: Path, steps: int) -> dict[str, Any]:
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
            "max_steps": steps,
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
    return {"seconds": sum(sum(v) for v in times.values()), "processes": sum(len(v) for v in times.values()),
            **{f"{k}_seconds": sum(v) for k, v in times.items()}}  # fmt: skip


def main() -> int:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps per task (default: the recipe's 200)")
    parser.add_argument("--work", type=Path, default=Path("saves/bench_chain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/chain/result.json"))
    args = parser.parse_args()
    if not Path("demo_data/stream.yaml").is_file():
        raise SystemExit("demo_data is missing; run `make demo` first")
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    ours = one_run(args.work, args.steps)
    print(f"one run         {ours['seconds']:7.1f} s", flush=True)
    hand = by_hand(args.work, args.steps)
    ratio = ours["seconds"] / hand["seconds"]
    print(f"by hand         {hand['seconds']:7.1f} s in {hand['processes']} processes")
    print(f"ratio           {ratio:7.3f}  (target: at most 0.2)")
    print(
        f"start to first step {ours['start_to_first_step']:.1f} s, last step to exit {ours['last_step_to_exit']:.1f} s"
    )
    print(
        "boundaries      " + ", ".join(f"{s:.2f} s" for s in ours["boundary_seconds"]) + "  (target: at most 1 s each)"
    )
    result = {"steps": args.steps, "ratio": ratio, "one_run": ours, "by_hand": hand, "python": platform.python_version(),
              "machine": platform.machine(), "cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
