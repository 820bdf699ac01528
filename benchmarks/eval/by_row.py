"""Answering with models that choose their parts per row, against the merged model: the same items, the same process, in turns.

The base has the shape of the demo's with layers four times as wide and pictures of 64 tokens, and fresh weights: at the demo's width of
128, calling an operation costs more than its arithmetic, which says nothing of larger models. ``--base demo`` takes the demo's;
``--width`` and ``--side`` make another one (``--width 2048 --side 128``: layers half as wide as those of a model of 7 B parameters,
pictures of 256 tokens).

Eight tasks are learned for two steps each, so that every part differs; their questions begin with a sentence of the
task's own, so that a selector finds the tasks. Then every model answers the same test sets, in another order each round, and
the ratios, of processor time on one thread, are those of the shortest rounds: other programs slow a round down and never
speed it up. The merged model is that of `inclora`: eight LoRAs in the weights.

A test set of one task is what a run's evaluation answers: nearly all rows of a batch choose the same part. In the mixed set
the rows of a batch choose among all parts. Every answer has the same number of tokens on all sides (2 for letters, 24 for captions),
so that no side is faster because its answers are shorter.

The decoder computes the beginning that all prompts share (the template's system sentence) once for a plain model; a model that chooses
per row has to read whole prompts. ``merged, whole prompts`` is the merged model without this: the difference is not
the routing's.

``python -m benchmarks.eval.by_row --demo demo_data`` prints a table and writes ``benchmarks/eval/by_row.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.eval.items import LETTERS, SENTENCES, captions
from benchmarks.step.run import load, lora


HERE = Path(__file__).parent
TASKS, LIMIT = 8, 1.15
WIDTH, SIDE, PATCH = 512, 64, 8  # of the wide base: its layers, its pictures in pixels, and what one token sees
TOKENS = {"letters": 2, "captions": 24}
MERGED, WHOLE = "merged", "merged, whole prompts"
#: Name -> method and options. The first is what all others are compared with.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    MERGED: ("inclora", {"consolidate": "merge"}),
    "single_task, ridge": ("single_task", {"selector": {"kind": "ridge", "features": ["vision", "text"]}}),
    "single_task, prototype": ("single_task", {"selector": {"kind": "prototype", "features": ["vision", "text"]}}),
    "mslora_cr, ridge": ("mslora_cr", {"selector": {"kind": "ridge", "features": ["vision", "text"]}}),
    "hide": ("hide", {}),
    "disco": ("disco", {}),
    "branchlora": ("branchlora", {}),
    "moelora": ("moelora", {"experts": 4}),
    "clmoe": ("clmoe", {"experts": 4, "usage_samples": 8}),
    "smolora": ("smolora", {"experts": 4}),
}


@dataclass(frozen=True)
class Asked:
    """One item: its prompt, its picture and its task."""

    prompt: str
    answer: str
    picture: Any
    task: int


def wide_base(demo: Path, folder: Path, width: int, side: int) -> Path:
    """A base with the demo's tokenizer, two wider layers and larger pictures; fresh weights.

    Args:
        demo: The demo's base.
        folder: Where it is written.
        width: Of the language model's layers, a multiple of 64.
        side: Of the pictures in pixels, a multiple of 8; they have (side / 8) ** 2 tokens.
    """
    import torch
    from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig.from_pretrained(demo)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads = width, 11 * width // 4, width // 64
    text.num_key_value_heads, text.head_dim, text.num_hidden_layers = width // 64, 64, 2
    text.initializer_range, vision.image_size, config.image_seq_length = width**-0.5, side, (side // PATCH) ** 2
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).float().save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(demo)
    processor.image_processor.size = {"shortest_edge": side}
    processor.image_processor.crop_size = {"height": side, "width": side}
    processor.save_pretrained(folder)
    return folder


def make_items(demo: Path, folder: Path, each: int) -> list[list[Asked]]:
    """Items of every task; the even tasks ask for letters, the odd ones for captions."""
    from PIL import Image

    from benchmarks.demo_base.model import prompt

    described = captions(folder, each * TASKS // 2, 1000)
    found = []
    for task in range(TASKS):
        own = []
        if task % 2 == 0:
            records = json.loads((demo / f"{LETTERS[task // 2 % len(LETTERS)]}_train.json").read_text())
        for number in range(each):
            if task % 2:
                picture, question, answer = next(described)
            else:
                record = records[(number + task * each) % len(records)]
                question, answer = (turn["value"] for turn in record["conversations"])
                picture = demo / record["images"][0]
            text = f"<image>\n{SENTENCES[task]}\n{question.removeprefix('<image>').lstrip()}"
            own.append(Asked(prompt(text), answer, Image.open(picture).convert("RGB"), task))
        found.append(own)
    return found


def test_sets(items: list[list[Asked]], count: int) -> dict[str, list[Asked]]:
    """Name -> items, of one task and of all of a kind."""
    rng, found = random.Random(0), {}
    for offset, kind in enumerate(TOKENS):
        own = items[offset :: len(TOKENS)]
        found[f"{kind}, one task"] = [own[1][i % len(own[1])] for i in range(count)]
        mixed = [task[i % len(task)] for i in range(count // len(own)) for task in own]
        rng.shuffle(mixed)
        found[f"{kind}, mixed"] = mixed
    return found


def learned(base: Path, method: str, options: dict[str, Any], work: Path, items: list[list[Asked]]) -> Any:
    """The model that answers after all tasks, each trained for two steps."""
    import torch
    from transformers import AutoProcessor, Trainer, TrainingArguments

    from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin
    from cl_plugins.streams import Task

    processor = AutoProcessor.from_pretrained(base)

    class Quick(ContinualTrainerMixin, Trainer):
        pass

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        texts = [row["item"].prompt + row["item"].answer for row in rows]
        pictures = [row["item"].picture for row in rows]
        batch = dict(processor(text=texts, images=pictures, return_tensors="pt", padding=True))
        labels = torch.full_like(batch["input_ids"], -100)
        for i, row in enumerate(rows):
            end = int(batch["attention_mask"][i].sum())
            tail = len(processor.tokenizer(row["item"].answer, add_special_tokens=False)["input_ids"])
            labels[i, end - tail : end] = batch["input_ids"][i, end - tail : end]
        return {**batch, "labels": labels}

    learner = ContinualLearner(load(base), method, work, lora=lora(), options=options)
    for number in range(TASKS):
        with learner.task(Task(name=f"task{number}", modality=f"m{number % 3}")) as task:
            arguments = TrainingArguments(
                output_dir=str(work / "trainer"), max_steps=2, learning_rate=1e-3, per_device_train_batch_size=2,
                save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
                lr_scheduler_type="constant",
            )  # fmt: skip
            Quick(
                model=task.model, terms=task.terms, callbacks=[task.callback], args=arguments,
                train_dataset=[{"item": item} for item in items[number][:4]], data_collator=collate,
            ).train()  # fmt: skip
    return learner.model()


class Answering:
    """One model and the ways in which it answers the test sets."""

    def __init__(self, model: Any, processor: Any, whole: bool = False) -> None:
        self.model, self.processor, self.whole = model, processor, whole
        self.seconds: dict[str, list[float]] = {}
        self.right: dict[str, float | None] = {}

    def answer(self, name: str, items: list[Asked], batch: int) -> None:
        """Answer a test set; the seconds of processor time."""
        from cl_plugins.generation.generate import generate, length_sorted_batches

        tokenizer = self.processor.tokenizer
        features = [
            {"number": i, **self.processor(text=item.prompt, images=item.picture)} for i, item in enumerate(items)
        ]
        features = [
            {"number": f["number"], "input_ids": f["input_ids"][0], "attention_mask": f["attention_mask"][0]}
            for f in features
        ]
        prompts = [feature["input_ids"] for feature in features]
        if self.whole:  # nothing in common, as for a model that chooses
            prompts = [[-1], *prompts[1:]]
        lengths = [len(feature["input_ids"]) for feature in features]
        routes: list[str | None] = [None] * len(items)
        batches = length_sorted_batches(lengths, batch)

        def collate(rows: list[dict[str, Any]]) -> Any:
            padded = tokenizer.pad(
                {key: [row[key] for row in rows] for key in ("input_ids", "attention_mask")}, return_tensors="pt"
            )
            pictures = [items[row["number"]].picture for row in rows]
            return {**padded, **self.processor.image_processor(pictures, return_tensors="pt")}

        def keep(position: int, found: list[Any]) -> None:
            for number, one in zip(batches[position], found, strict=True):
                routes[number] = one.route

        started = time.process_time()
        generate(
            self.model, tokenizer, collate, features, prompts, batches=batches, on_batch=keep,
            max_new_tokens=TOKENS[name.partition(",")[0]], eos_token_ids=(),
            media_token_ids=(self.model.config.image_token_index,),
        )  # fmt: skip
        self.seconds.setdefault(name, []).append(time.process_time() - started)
        known = [route == f"task{item.task}" for route, item in zip(routes, items, strict=True) if route]
        self.right[name] = 100 * sum(known) / len(known) if known else None


def ratio(of: list[float], to: list[float]) -> float:
    """The ratio of the shortest rounds, which other programs disturb least; the first round warms up."""
    return min(of[1:]) / min(to[1:])


def table(found: dict[str, Answering], sets: list[str], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Print the ratios and return them."""
    say(f"{'x merged':26}" + "".join(f"{name:>20}" for name in sets) + "   rows with their task's part")
    judged: dict[str, Any] = {}
    for name, model in found.items():
        ratios = {s: ratio(model.seconds[s], found[MERGED].seconds[s]) for s in sets}
        whole = {s: ratio(model.seconds[s], found[WHOLE].seconds[s]) for s in sets}
        right = {s: value for s, value in model.right.items() if value is not None}
        missed = [s for s in sets if ratios[s] > LIMIT and name not in (MERGED, WHOLE)]
        judged[name] = {
            "seconds": {s: model.seconds[s][1:] for s in sets}, "against_merged": ratios,
            "against_whole_prompts": whole, "right_parts": right, "missed": missed,
        }  # fmt: skip
        shown = f"   {statistics.mean(right.values()):.0f} %" if right else ""
        say(f"{name:26}" + "".join(f"{ratios[s]:20.2f}" for s in sets) + shown)
    say(f"limit: {LIMIT}")
    return judged


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("demo_data"), help="the demo's data, with base/")
    parser.add_argument("--base", choices=["wide", "demo"], default="wide")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the wide base's layers, a multiple of 64")
    parser.add_argument(
        "--side", type=int, default=SIDE, help="of the wide base's pictures in pixels, a multiple of 8"
    )
    parser.add_argument("--items", type=int, default=64, help="items of a test set")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", help="only these, beside the merged model (default: all)")
    parser.add_argument("--out", type=Path, default=HERE / "by_row.json")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    import torch
    from transformers import AutoProcessor

    found: dict[str, Answering] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = args.demo / "base"
        base = wide_base(base, Path(scratch) / "base", args.width, args.side) if args.base == "wide" else base
        processor = AutoProcessor.from_pretrained(base)
        items = make_items(args.demo, Path(scratch) / "items", max(args.items // 4, 16))
        sets = test_sets(items, args.items)
        for name, (method, options) in MODELS.items():
            if name != MERGED and name not in (args.models or name):
                continue
            work = Path(scratch) / name.replace(", ", "-")
            model = learned(base, method, options, work, items)
            found[name] = Answering(model, processor)
            if name == MERGED:
                found[WHOLE] = Answering(model, processor, whole=True)
        order, rng = list(found.values()), random.Random(0)
        for _ in range(args.rounds + 1):
            for name, asked in sets.items():
                rng.shuffle(order)
                for model in order:
                    model.answer(name, asked, args.batch)
    result = {
        "base": args.base, **({"width": args.width, "side": args.side} if args.base == "wide" else {}), "limit": LIMIT, "tasks": TASKS, "items": args.items, "batch": args.batch, "rounds": args.rounds, "tokens": TOKENS,
        "judged": table(found, list(sets)), "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "load_average_at_the_end": os.getloadavg(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "cl-plugins")},
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
