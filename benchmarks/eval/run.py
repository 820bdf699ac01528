"""Answering a test set with cl_plugins against ``llamafactory-cli train`` with ``do_predict`` and ``predict_with_generate``.

The same base, the same 1,000 items with prompts of mixed lengths, captions and letters mixed, greedy, fp32, on the CPU. Both
sides are ordinary recipes in processes of their own, one after the other and taking turns, so that whatever else the
machine does hits both alike. Texts are compared item by item; where two differ, the two best tokens have to tie.

``python -m benchmarks.eval.run --demo demo_data`` prints a table and writes ``benchmarks/eval/result.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.eval import items, near_ties


HERE = Path(__file__).parent
LONGEST = 24  # tokens of an answer
SIDES = ("host", "ours")


def recipe(side: str, work: Path, base: Path, batch: int, out: Path) -> dict[str, Any]:
    """The recipe of one side."""
    shared = {
        "model_name_or_path": str(base), "template": "llava", "stage": "sft", "dataset_dir": str(work / "data"), "cutoff_len": 512,
        "per_device_eval_batch_size": batch, "output_dir": str(out), "use_cpu": True, "report_to": "none",
        "overwrite_cache": True,
    }  # fmt: skip
    if side == "host":
        return {
            **shared, "do_predict": True, "predict_with_generate": True, "finetuning_type": "full", "eval_dataset": "bench",
            "do_sample": False, "max_new_tokens": LONGEST,
        }  # fmt: skip
    task = {"name": "bench", "train": "bench", "test": "bench", "scorer": "bleu", "max_new_tokens": LONGEST}
    block = {"stream": {"name": "bench", "tasks": [task]}, "method": {"name": "seqlora"}, "stop_after": 1}
    return {**shared, "do_train": True, "finetuning_type": "lora", "lora_target": "all", "cl": block}


def one(side: str, work: Path, base: Path, batch: int) -> dict[str, Any]:
    """One process: its seconds, and the texts that it gave."""
    out = work / f"{side}_{batch}"
    shutil.rmtree(out, ignore_errors=True)
    keys, times = work / f"{side}_{batch}.json", work / f"{side}_{batch}.times.json"
    keys.write_text(json.dumps(recipe(side, work, base, batch, out)))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    started = time.monotonic()
    with (work / f"{side}_{batch}.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, str(HERE / "child.py"), side, str(keys), str(times)],
            stdout=log, stderr=subprocess.STDOUT, env=environment, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} at batch {batch} failed with exit code {done.returncode}; see {log.name}")
    value = {**json.loads(times.read_text()), "command": time.monotonic() - started}
    name, key = {
        "host": ("generated_predictions.jsonl", "predict"),
        "ours": ("predictions/zero_shot/bench.jsonl", "prediction"),
    }[side]
    value["texts"] = [json.loads(line)[key] for line in (out / name).read_text().splitlines()]
    return value


def best(runs: dict[int, list[dict[str, Any]]], clock: str) -> tuple[int, float]:
    """The batch size with the smallest median, and that median."""
    medians = {batch: statistics.median(r["answering"][clock] for r in found) for batch, found in runs.items()}
    batch = min(medians, key=medians.__getitem__)
    return batch, medians[batch]


def main() -> int:
    """Measure both sides and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo_data"), help="the demo's data, with base/")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 64, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("saves/bench_eval"))
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    args = parser.parse_args()
    base = args.demo / "base"
    if not (base / "config.json").is_file():
        raise SystemExit(f"{base} is missing; run `make demo-data` first")
    shutil.rmtree(args.work, ignore_errors=True)
    about = items.build(args.demo, args.work / "data", args.items)
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {side: {b: [] for b in args.batches} for side in SIDES}
    for repeat in range(args.repeats):
        for batch in args.batches:
            for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
                value = one(side, args.work, base, batch)
                runs[side][batch].append(value)
                seconds = value["answering"]
                print(
                    f"{side} batch {batch:4d}  answering {seconds['clock']:6.1f} s ({seconds['processor']:.1f} s of processor "
                    f"time)  whole command {value['command']:6.1f} s",
                    flush=True,
                )
    result = {**about, "max_new_tokens": LONGEST, **summary(runs), **texts(runs, args.work, base)}
    result |= {"python": platform.python_version(), "cpus": os.cpu_count(), "load_average_at_the_end": os.getloadavg(),
               "versions": _versions(), "date": time.strftime("%Y-%m-%d")}  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for clock, ratio in result["best_against_best"].items():
        print(
            f"best against best, {clock:9s}: {ratio['ratio']:.2f} (ours at batch {ratio['ours_batch']}, host at {ratio['host_batch']})"
        )
    print(
        f"equal texts: {100 * result['equal_texts']:.2f} %, ties among the others: {result['ties']} of {len(result['differing'])}; "
        f"{result['different_answers']} different answers"
    )
    return 0


def summary(runs: dict[str, dict[int, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Ratios ours / host of medians: per batch size, and best against best."""
    value: dict[str, Any] = {"equal_batch": {}, "best_against_best": {}, "runs": []}
    for clock in ("clock", "processor"):
        (host_batch, host), (ours_batch, ours) = best(runs["host"], clock), best(runs["ours"], clock)
        value["best_against_best"][clock] = {
            "ratio": ours / host, "host_batch": host_batch, "host_seconds": host, "ours_batch": ours_batch, "ours_seconds": ours,
        }  # fmt: skip
    for batch in runs["host"]:
        value["equal_batch"][batch] = {
            clock: statistics.median(r["answering"][clock] for r in runs["ours"][batch])
            / statistics.median(r["answering"][clock] for r in runs["host"][batch])
            for clock in ("clock", "processor")
        }
    for side, by_batch in runs.items():
        for batch, found in by_batch.items():
            value["runs"] += [
                {"side": side, "batch": batch, **{k: v for k, v in r.items() if k != "texts"}} for r in found
            ]
    return value


def texts(runs: dict[str, dict[int, list[dict[str, Any]]]], work: Path, base: Path) -> dict[str, Any]:
    """How many texts agree, over all batch sizes, with the gap of the two best tokens wherever two differ."""
    pairs = [(b, h, o) for b in runs["host"] for h, o in zip(runs["host"][b], runs["ours"][b], strict=True)]
    total = sum(len(h["texts"]) for _, h, _ in pairs)
    differing = {
        (number, theirs, own)
        for _, h, o in pairs
        for number, (theirs, own) in enumerate(zip(h["texts"], o["texts"], strict=True))
        if theirs != own
    }
    equal = sum(a == b for _, h, o in pairs for a, b in zip(h["texts"], o["texts"], strict=True))
    found: list[dict[str, Any]] = []
    if differing:
        rows = sorted(differing)
        keys = {k: v for k, v in recipe("ours", work, base, 1, work / "ties").items() if k != "cl"}
        found = near_ties.gaps(keys, [r[0] for r in rows], [(r[1], r[2]) for r in rows])
    one_run = pairs[0][2]["texts"]
    return {
        "texts_compared": total,
        "equal_texts": equal / total,
        "differing": found,
        "ties": sum(row["tie"] for row in found),
        "different_answers": len(set(one_run)),
        "mean_answer_characters": sum(map(len, one_run)) / len(one_run),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("llamafactory", "transformers", "torch")}


if __name__ == "__main__":
    sys.exit(main())
