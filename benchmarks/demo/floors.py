"""What the demo's tasks can be believed to show: accuracy after training on each task alone, against its floors.

For every letter task and seed: the accuracy right after training from the base on that task alone, the majority baseline,
and the same with every picture (training and test) replaced by noise. For the captions: BLEU against the best constant
caption and against the same predictions with shuffled references. Only LLaMA-Factory and Transformers are used, so that
the numbers do not lean on the runner of cl_plugins::

    python -m benchmarks.demo.floors --seeds 5 --out benchmarks/demo/floors.json

A cell that stands in the output file is not computed again; remove the file to start afresh.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml


ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = ROOT / "examples" / "yaml" / "demo" / "inclora.yaml"
LETTERS = ("path", "neuro", "cell")
ABOVE_MAJORITY, NOISE_ABOVE_MAJORITY = 20.0, 5.0
SHUFFLES = 100


def noise_copy(data: Path, folder: Path, seed: int) -> Path:
    """A copy of the data folder in which every picture is uniform noise, a different one for every file and seed.

    One draw for all seeds would let the luck of 150 test items pass for an effect that all seeds show.
    """
    from PIL import Image

    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("base"))
    rng = np.random.default_rng(seed)
    for file in sorted((folder / "images").rglob("*.png")):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    return folder


def train(data: Path, base: Path, task: str, seed: int, steps: int, out: Path) -> tuple[Any, Any]:
    """Train a LoRA and the projector on one task with LLaMA-Factory's own parts; return the model and the processor."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

    keys = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    keys.pop("cl")
    keys |= {
        "model_name_or_path": str(base),
        "dataset_dir": str(data),
        "dataset": f"{task}_train",
        "output_dir": str(out),
        "max_steps": steps,
        "seed": seed,
        "overwrite_cache": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(keys)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    dataset = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)
    model = load_model(module["tokenizer"], model_args, finetuning_args, training_args.do_train)
    training_args.remove_unused_columns = False
    trainer = CustomSeq2SeqTrainer(
        model=model,
        args=training_args,
        finetuning_args=finetuning_args,
        data_collator=SFTDataCollatorWith4DAttentionMask(
            template=template, model=model, pad_to_multiple_of=8, label_pad_token_id=-100, **module
        ),
        **dataset,
        **module,
    )
    trainer.train()
    return model.eval(), module["processor"]


def answers(model: Any, processor: Any, data: Path, task: str) -> list[dict[str, str]]:
    """Greedy answers of the model to one test set, with the references."""
    import torch
    from PIL import Image

    from benchmarks.demo_base.model import prompt

    records = json.loads((data / f"{task}_test.json").read_text(encoding="utf-8"))
    processor.tokenizer.padding_side = "left"
    found = []
    with torch.no_grad():
        for start in range(0, len(records), 50):
            part = records[start : start + 50]
            batch = processor(
                text=[prompt(record["conversations"][0]["value"]) for record in part],
                images=[Image.open(data / record["images"][0]).convert("RGB") for record in part],
                return_tensors="pt",
                padding=True,
            )
            ids = model.generate(**batch, do_sample=False, max_new_tokens=24 if task == "rad" else 4, use_cache=True)
            texts = processor.tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            for record, text in zip(part, texts, strict=True):
                reference = record["conversations"][1]["value"]
                found.append({"id": record["id"], "prediction": text.strip(), "reference": reference})
    return found


def caption_scores(found: list[dict[str, str]], data: Path, task: str) -> dict[str, Any]:
    """BLEU, the best constant training caption, and the mean BLEU with shuffled references."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU()
    guesses, truths = [item["prediction"] for item in found], [item["reference"] for item in found]

    def score(hypotheses: list[str], references: list[str]) -> float:
        return float(bleu.corpus_score(hypotheses, [references]).score)

    captions = sorted(
        {record["conversations"][1]["value"] for record in json.loads((data / f"{task}_train.json").read_text())}
    )
    best = max(captions, key=lambda text: score([text] * len(truths), truths))
    rng = np.random.default_rng(0)
    shuffled = [score(guesses, [truths[i] for i in rng.permutation(len(truths))]) for _ in range(SHUFFLES)]
    result = {
        "score": score(guesses, truths),
        "best_constant": score([best] * len(truths), truths),
        "best_constant_caption": best,
        "shuffled": float(np.mean(shuffled)),
        "exact": 100 * float(np.mean([guess == truth for guess, truth in zip(guesses, truths, strict=True)])),
    }
    return {**result, "signature": str(bleu.get_signature())}


def letter_scores(found: list[dict[str, str]]) -> dict[str, Any]:
    """Accuracy of exact letters, the majority share of the test set, and how many answers are no letter."""
    right = [item["prediction"] == item["reference"] for item in found]
    counts = {answer: sum(item["reference"] == answer for item in found) for answer in "ABC"}
    return {
        "score": 100 * float(np.mean(right)),
        "majority": 100 * max(counts.values()) / len(found),
        "invalid": 100 * float(np.mean([item["prediction"] not in counts for item in found])),
        "right": "".join("1" if good else "0" for good in right),
    }


def over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean with a 95 % interval of the mean over seeds (Student's t)."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
    interval = None if half is None else [mean - half, mean + half]
    return {"mean": mean, "interval": interval, "values": values}


def over_items(rights: list[str]) -> list[float]:
    """95 % interval over test items: bootstrap (2,000) of each item's share of seeds that got it right."""
    shares = np.mean([[mark == "1" for mark in right] for right in rights], axis=0)
    rng = np.random.default_rng(0)
    means = shares[rng.integers(0, len(shares), (2000, len(shares)))].mean(1)
    return [100 * float(value) for value in np.quantile(means, [0.025, 0.975])]


def wilson(percent: float, count: int) -> list[float]:
    """95 % Wilson interval of a rate, both in per cent."""
    p, z = percent / 100, 1.96
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * float(np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))) / (1 + z * z / count)
    return [100 * (middle - half), 100 * (middle + half)]


def summary(cells: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """What the cells say, and whether each target is reached."""
    made: dict[str, Any] = {}
    for task in LETTERS:
        real = [cells[f"{task}/pictures/{seed}"] for seed in seeds if f"{task}/pictures/{seed}" in cells]
        noise = [cells[f"{task}/noise/{seed}"] for seed in seeds if f"{task}/noise/{seed}" in cells]
        if not real:
            continue
        majority = real[0]["majority"]
        entry: dict[str, Any] = {
            "accuracy": over_seeds([cell["score"] for cell in real]),
            "accuracy_interval_over_items": over_items([cell["right"] for cell in real]),
            "majority": majority,
            "majority_interval": wilson(majority, len(real[0]["right"])),
            "exceeds_majority_by_20": float(np.mean([cell["score"] for cell in real])) >= majority + ABOVE_MAJORITY,
        }
        if noise:
            entry["noise"] = over_seeds([cell["score"] for cell in noise])
            entry["noise_within_5"] = entry["noise"]["mean"] <= majority + NOISE_ABOVE_MAJORITY
        made[task] = entry
    captions = [cells[f"rad/pictures/{seed}"] for seed in seeds if f"rad/pictures/{seed}" in cells]
    if captions:
        made["rad"] = {
            "bleu": over_seeds([cell["score"] for cell in captions]),
            "best_constant": captions[0]["best_constant"],
            "best_constant_caption": captions[0]["best_constant_caption"],
            "shuffled": over_seeds([cell["shuffled"] for cell in captions]),
            "exact": over_seeds([cell["exact"] for cell in captions]),
            "signature": captions[0]["signature"],
        }
    good = [task for task in LETTERS if made.get(task, {}).get("exceeds_majority_by_20")]
    made["target_two_of_three_letter_tasks"] = len([task for task in good if made[task].get("noise_within_5")]) >= 2
    return made


def main() -> int:
    """Compute what is missing, write the file after every cell, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--data", type=Path, default=Path("demo_data"), help="made by python -m cl_plugins.data.demo")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/demo/floors.json"))
    args = parser.parse_args()
    if not (args.data / "stream.yaml").is_file():
        raise SystemExit(f"{args.data} holds no demo; run `python -m cl_plugins.data.demo --out {args.data}` first")
    digest = json.loads((args.data / "manifest.json").read_text())["sha256"]
    stream = yaml.safe_load((args.data / "stream.yaml").read_text(encoding="utf-8"))
    steps = {task["name"]: task["defaults"]["max_steps"] for task in stream["tasks"]}
    result: dict[str, Any] = {"cells": {}}
    if args.out.is_file():
        result = json.loads(args.out.read_text())
        if result.get("data") != digest or result.get("steps") != steps:
            raise SystemExit(f"{args.out} was made from other data or steps; remove it to start afresh")
    cells = result["cells"]
    seeds = list(range(args.seeds))
    jobs = [(task, "pictures", seed) for seed in seeds for task in (*LETTERS, "rad")]
    jobs += [(task, "noise", seed) for seed in seeds for task in LETTERS]
    with tempfile.TemporaryDirectory() as scratch:
        for task, kind, seed in jobs:
            name = f"{task}/{kind}/{seed}"
            if name in cells:
                continue
            began = time.monotonic()
            data = args.data
            if kind == "noise":
                data = Path(scratch) / f"noise{seed}"
                if not data.is_dir():
                    noise_copy(args.data, data, seed)
            model, processor = train(data, args.data / "base", task, seed, steps[task], Path(scratch) / "out")
            found = answers(model, processor, data, task)
            cells[name] = caption_scores(found, data, task) if task == "rad" else letter_scores(found)
            cells[name]["seconds"] = round(time.monotonic() - began, 1)
            shutil.rmtree(Path(scratch) / "out", ignore_errors=True)
            print(f"{name:20s} {cells[name]['score']:6.1f}  {cells[name]['seconds']:.0f} s", flush=True)
            result |= {
                "data": digest,
                "steps": steps,
                "seeds": seeds,
                "summary": summary(cells, seeds),
                "hardware": {
                    "machine": platform.machine(),
                    "cpus": os.cpu_count(),
                    "threads": os.environ.get("OMP_NUM_THREADS", "default"),
                },
                "versions": {
                    name: version(name)
                    for name in (
                        "llamafactory",
                        "torch",
                        "transformers",
                        "peft",
                        "sacrebleu",
                        "scikit-image",
                        "stardist",
                    )
                }
                | {"nilearn": version("nilearn"), "python": platform.python_version()},
            }
            args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
