"""The synthetic-conflict benchmark: forgetting of every method over the seeds of ``margin.json``, with intervals.

Each run is an ordinary ``llamafactory-cli train``; a finished one is skipped, so the command can be given again::

    python benchmarks/synthetic_conflict/run.py --data demo_data --saves saves/synthetic_conflict

Writes ``benchmarks/synthetic_conflict/results.json`` and ``table.md``; what an earlier command found for other methods and seeds
stays. The margin was committed before the first result, for the methods without routing and the tasks that are told by their
question. ``--mark picture`` makes the tasks that are told by their picture, and writes ``results_picture.json`` and
``table_picture.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from stream import MARKS, build
from why import WHY


HERE = Path(__file__).resolve().parent
MARGIN: dict[str, Any] = json.loads((HERE / "margin.json").read_text(encoding="utf-8"))

#: Method of the table -> what stands under ``cl``.
METHODS: dict[str, dict[str, Any]] = {
    "seqlora": {"method": {"name": "seqlora"}},
    "replay": {"method": {"name": "seqlora"}, "replay": {"capacity_per_task": 30}},
    "olora": {"method": {"name": "olora"}},
    "ewc": {"method": {"name": "ewc"}},
    "inclora": {"method": {"name": "inclora"}},
    "lwf": {"method": {"name": "lwf"}},
    "der": {"method": {"name": "der"}, "replay": {"capacity_per_task": 30}},
    "sefe": {"method": {"name": "sefe"}},
    "mslora_cr": {"method": {"name": "mslora_cr"}},
}
#: Routed methods: what chooses per token, per row by the picture alone, and per row by picture and question.
ROUTED: dict[str, dict[str, Any]] = {
    "moelora": {"method": {"name": "moelora", "experts": 4}},
    "single_task, prototype on vision": {
        "method": {"name": "single_task", "selector": {"kind": "prototype", "features": "vision"}}
    },
    "single_task, ridge on vision": {
        "method": {"name": "single_task", "selector": {"kind": "ridge", "features": "vision"}}
    },
    "single_task, ridge on vision + text": {
        "method": {"name": "single_task", "selector": {"kind": "ridge", "features": ["vision", "text"]}}
    },
    "mr_lora": {
        "method": {"name": "mr_lora", "selector": {"kind": "mllm", "steps": 100, "learning_rate": 2.0e-3}},
        "replay": {"capacity_per_task": 30},
    },
    "branchlora": {"method": {"name": "branchlora"}},
    "hide": {"method": {"name": "hide"}},
    "disco": {"method": {"name": "disco"}},
}
METHODS |= ROUTED
STEPS, RATE = 150, 2.0e-3


def recipe(data: Path, base: Path, out: Path, cl: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The recipe of one run: the demo's, with the stream of this benchmark."""
    return {
        "model_name_or_path": str(base),
        "template": "llava",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": 8,
        "additional_target": "multi_modal_projector",
        "dataset_dir": str(data),
        "cutoff_len": 256,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 60,
        "max_steps": STEPS,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "seed": seed,
        "output_dir": str(out),
        "cl": {"stream": str(data / "stream.yaml"), "eval": {"scope": "seen", "zero_shot": False}, **cl},
    }


def run(
    name: str, cl: Mapping[str, Any], seed: int, base: Path, saves: Path, mark: str = "question", **keys: Any
) -> dict[str, float] | None:
    """One run; its metrics, or None if it failed."""
    saves = saves if mark == "question" else saves / mark
    name = re.sub(r"\W+", "_", name)
    out = saves / f"{name}_seed{seed}"
    data = saves / "data" / f"seed{seed}"
    if not (data / "stream.yaml").is_file():
        build(data, seed, MARGIN["conflict"], MARGIN["tasks"], mark=mark)
    journal = out / "journal.jsonl"
    lines = journal.read_text(encoding="utf-8").rpartition("\n")[0] if journal.is_file() else ""
    if '"step": "finish"' not in lines:
        file = saves / f"{name}_seed{seed}.yaml"
        file.write_text(
            yaml.safe_dump({**recipe(data, base, out, cl, seed), **keys}, sort_keys=False), encoding="utf-8"
        )
        command = [str(Path(sys.executable).with_name("llamafactory-cli")), "train", str(file)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        with (saves / f"{name}_seed{seed}.log").open("ab") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
            ).returncode
        if code:
            print(f"{name}, seed {seed}: FAILED with exit code {code}", flush=True)
            return None
    scores = json.loads((out / "matrix.json").read_text(encoding="utf-8"))["scores"]
    found = {
        "learned": statistics.mean(row[i] for i, row in enumerate(scores)),
        "last": statistics.mean(scores[-1]),
        "forgetting": forgetting(scores),
    }
    print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)
    return found


def forgetting(scores: Sequence[Sequence[float]]) -> float:
    """Chaudhry et al. 2018: best earlier score minus the last one, mean over all tasks but the last."""
    last = len(scores) - 1
    return statistics.mean(max(scores[i][j] for i in range(j, last)) - scores[last][j] for j in range(last))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % t interval."""
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 1.96)
    return statistics.mean(values), t * statistics.stdev(values) / math.sqrt(len(values)) if len(
        values
    ) > 1 else math.nan


def keeps_margin(
    found: Mapping[str, Mapping[str, float]], baseline: Mapping[str, Mapping[str, float]]
) -> dict[str, bool]:
    """For each seed that both have: whether a method forgets as little as the margin asks for."""
    share = MARGIN["forgets_at_most_share_of_baseline"]
    return {s: found[s]["forgetting"] <= share * baseline[s]["forgetting"] for s in found if s in baseline}


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]], *, judged: bool = True) -> str:
    """The table, with a verdict on what ``margin.json`` asks for where the margin is about these tasks."""
    head = "| method | learned | last | forgetting | at most half of seqlora's |\n| --- | --- | --- | --- | --- |\n"
    lines = []
    baseline = results.get(MARGIN["baseline"]["method"], {})
    for name, seeds in results.items():
        cells = []
        for key in ("learned", "last", "forgetting"):
            mean, half = interval([value[key] for value in seeds.values()])
            cells.append(f"{mean:.1f} ± {half:.1f}" if len(seeds) > 1 else f"{mean:.1f}")
        kept = keeps_margin(seeds, baseline)
        verdict = f"{sum(kept.values())} of {len(kept)} seeds"
        if name == MARGIN["baseline"]["method"]:
            least = MARGIN["baseline"]["forgets_at_least"]
            verdict = f"forgets at least {least:g} in {sum(v['forgetting'] >= least for v in seeds.values())} of {len(seeds)}"
        elif judged and name in MARGIN["methods"]:
            if len(kept) < len(MARGIN["seeds"]):
                verdict += ": not all seeds yet"
            else:
                verdict += (
                    ": meets the margin"
                    if sum(kept.values()) >= MARGIN["in_at_least_seeds"]
                    else ": misses the margin"
                )
        lines.append(f"| {name} | {' | '.join(cells)} | {verdict} |\n")
    return head + "".join(lines)


def reasons(results: Mapping[str, Mapping[str, Mapping[str, float]]], saves: Path, before: str) -> str:
    """For each method of the margin that forgets more than half of what the baseline does: why, from its own files.

    Args:
        results: Method -> seed -> metrics.
        saves: Folder of the runs.
        before: The table that is written anew; what it says of runs that are not there any more stays.
    """
    baseline = results.get(MARGIN["baseline"]["method"], {})
    lines = []
    for name in MARGIN["methods"]:
        missed = [seed for seed, kept in keeps_margin(results.get(name, {}), baseline).items() if not kept]
        known = [line for line in before.splitlines() if line.startswith(f"{name}: ")]
        if missed and known and not all((saves / f"{name}_seed{seed}").is_dir() for seed in missed):
            lines += [f"\n{line}\n" for line in known]
        elif missed:
            why = WHY[name]([saves / f"{name}_seed{seed}" for seed in missed]) if name in WHY else "not looked into."
            lines.append(f"\n{name}: {why}\n")
    return "".join(lines)


def known_before(file: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Results of an earlier command with the same settings and options, which stay beside new ones."""
    if not file.is_file():
        return {}
    record = json.loads(file.read_text(encoding="utf-8"))
    if any(record.get(key) != value for key, value in settings.items()):
        return {}
    return {n: seeds for n, seeds in record["results"].items() if record["methods"][n] == METHODS.get(n)}


def main() -> int:
    """Command line; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("demo_data"), help="holds the demo's base")
    parser.add_argument("--saves", type=Path, default=Path("saves/synthetic_conflict"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=MARGIN["seeds"])
    parser.add_argument("--mark", default="question", choices=MARKS, help="where the task can be told")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a task; fewer only to try it")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    args.saves.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in args.methods}
    failed = 0
    for seed in args.seeds:
        for name in args.methods:
            base = (args.data / "base").resolve()
            found = run(name, METHODS[name], seed, base, args.saves.resolve(), args.mark, max_steps=args.steps)
            failed += found is None
            if found is not None:
                results[name][str(seed)] = found
    own = args.mark == "question"
    ending = "" if own else f"_{args.mark}"
    settings = {"margin": MARGIN, "mark": args.mark, "steps": args.steps, "learning_rate": RATE}
    before = known_before(args.out / f"results{ending}.json", settings)
    known = {name: {**before.get(name, {}), **results.get(name, {})} for name in METHODS}
    known = {name: seeds for name, seeds in known.items() if seeds}
    file = args.out / f"table{ending}.md"
    written = file.read_text(encoding="utf-8") if file.is_file() else ""
    text = table(known, judged=own) + (reasons(known, args.saves, written) if own else "")
    print(text)
    file.write_text(text, encoding="utf-8")
    record = {
        **settings,
        "methods": {name: METHODS[name] for name in known},
        "results": known,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "llamafactory", "cl-plugins")},
    }
    (args.out / f"results{ending}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
