"""Seconds of an optimizer step: each method at task 1 and at task 8, plain LoRA, and the way of today's peers.

All variants live in one process and take turns, step by step and in another order every round, so that whatever else the
machine does, and whatever the variant before left in the caches, meets all of them. Ratios are medians over the rounds of
ratios within a round. A step is forward, the method's batch terms, backward, penalties, clipping, AdamW. Plain LoRA is the
adapter that LLaMA-Factory trains (PEFT, the same targets, rank and projector) on the same base with the same batch. LwF's
teacher is a second forward; it has a column of its own beside the terms.

Methods that choose their parts per sample (`routed`) are compared with plain LoRA whose rank is that of all their trained
low-rank terms together; methods that train none, as prompts, with plain LoRA of the recipe's rank.

The peers' way is measured beside: one PEFT adapter per past task, all of them active, and the penalty as a Python loop over
the parameters' names, once per micro-batch.

`der` is not here: its step is one of replay (a batch of twice the size) and a comparison of a few logits.

``python -m benchmarks.step.run [--tasks 8] [--rounds 40]`` prints the table and writes ``benchmarks/step/result.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.step.routed import LIMIT, LIMITS, routed, summed_rank


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "seqlora": ("seqlora", {}),
    "inclora, merged": ("inclora", {"consolidate": "merge"}),
    "inclora, stack": ("inclora", {"consolidate": "stack"}),
    "mslora_cr, merged": ("mslora_cr", {"consolidate": "merge"}),
    "mslora_cr, stack": ("mslora_cr", {"consolidate": "stack"}),
    "olora, merged": ("olora", {"consolidate": "merge"}),
    "olora, stack": ("olora", {"consolidate": "stack"}),
    "sefe, merged": ("sefe", {"consolidate": "merge"}),
    "sefe, stack": ("sefe", {"consolidate": "stack"}),
    "mslora_cr, inference: all, merged": ("mslora_cr", {"consolidate": "merge", "inference": "all"}),
    "ewc": ("ewc", {}),
    "lwf": ("lwf", {}),
}
#: What a step at the last task may cost without the method's own terms, against the same method's first task and against plain
#: LoRA; and the share of the whole step that the terms take.
TARGETS_OF = {"stack": 1.3, "merged": 1.05, "terms": 0.1}
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
RANK = 8


def load(base: Path) -> Any:
    """The demo base."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(base)


def lora(rank: int = RANK) -> Any:
    """The LoRA of the demo's recipes, or one of another rank."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=TARGETS, modules_to_save=["multi_modal_projector"], task_type="CAUSAL_LM"
    )  # fmt: skip


def batches(data: Path, size: int) -> list[dict[str, Any]]:
    """Batches of the demo's first task; the loss sees the answers only."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    from benchmarks.demo_base.model import prompt

    processor = AutoProcessor.from_pretrained(data / "base")
    processor.tokenizer.padding_side = "left"
    records = json.loads((data / "path_train.json").read_text(encoding="utf-8"))
    found = []
    for start in range(0, 4 * size, size):
        part = records[start : start + size]
        texts = [prompt(r["conversations"][0]["value"]) + r["conversations"][1]["value"] for r in part]
        images = [Image.open(data / r["images"][0]).convert("RGB") for r in part]
        batch = dict(processor(text=texts, images=images, return_tensors="pt", padding=True))
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -1:] = batch["input_ids"][:, -1:]
        found.append({**batch, "labels": labels})
    return found


class Variant:
    """Something that can make one optimizer step."""

    def __init__(self, model: Any, terms: Any = None, loop: Any = None) -> None:
        import torch

        self.model, self.terms, self.loop = model, terms, loop
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5)
        self.seconds: list[float] = []
        self.in_terms: list[float] = []  # penalties and batch terms, without the backward of the latter
        self.in_teacher: list[float] = []  # a second forward, not in the terms
        self.teacher = 0.0
        self.count = 0
        model.train()

    def step(self, batch: dict[str, Any]) -> None:
        """One optimizer step, timed."""
        import torch

        from cl_plugins.contract.task import Batch
        from cl_plugins.training.terms import add_gradient

        started = time.perf_counter()
        self.count += 1
        self.teacher = 0.0
        output = self.model(**batch)
        loss = output.loss
        if self.loop is not None:
            loss = loss + self.loop(self.model)
        in_terms = 0.0
        if self.terms is not None and self.terms.has_batch_terms:
            before = time.perf_counter()
            loss = loss + sum(self.terms.batch(Batch(batch, output.logits, self.count, 0)))
            in_terms += time.perf_counter() - before
        loss.backward()
        if self.terms is not None and self.terms.has_penalties:
            before = time.perf_counter()
            add_gradient(self.terms.penalties(self.count), self.model.parameters())
            in_terms += time.perf_counter() - before
        self.in_terms.append(in_terms - self.teacher)
        self.in_teacher.append(self.teacher)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds.append(time.perf_counter() - started)


def ours(data: Path, method: str, options: dict[str, Any], tasks: int, work: Path, examples: list[Any]) -> Variant:
    """A method that is about to learn its last task; the ones before were learned for one step each, for real."""
    from transformers import Trainer, TrainingArguments

    from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin
    from cl_plugins.streams import Task
    from cl_plugins.training.collated import CollatedData

    class Quick(ContinualTrainerMixin, Trainer):
        pass

    learner = ContinualLearner(load(data / "base"), method, work, lora=lora(), options=options)
    for number in range(1, tasks):
        with learner.task(Task(name=f"task{number}", modality=f"m{number % 3}")) as task:
            arguments = TrainingArguments(
                output_dir=str(work / "trainer"), max_steps=2, learning_rate=1e-2, per_device_train_batch_size=1,
                save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
                lr_scheduler_type="constant",
            )  # fmt: skip
            Quick(
                model=task.model, terms=task.terms, callbacks=[task.callback], args=arguments, train_dataset=examples,
                data_collator=lambda rows: rows[0],
            ).train()  # fmt: skip
    last = Task(name=f"task{tasks}", modality="m0")
    context = learner.task(last)
    task = context.__enter__()  # left open: it is timed, not finished
    samples = CollatedData(examples, lambda rows: rows[0], "cpu")
    task.terms.context = dataclasses.replace(task.terms.context, data=samples)  # as when a training begins
    variant = Variant(task.model, task.terms)
    if method == "lwf":
        time_teacher(learner.method, variant)
    variant.context = context  # type: ignore[attr-defined]
    return variant


def time_teacher(method: Any, variant: Variant) -> None:
    """Note how long the teacher's forward takes."""
    forward = method._teacher_logits

    def timed(*args: Any) -> Any:
        before = time.perf_counter()
        found = forward(*args)
        variant.teacher += time.perf_counter() - before
        return found

    method._teacher_logits = timed


def plain(data: Path, rank: int = RANK) -> Variant:
    """What LLaMA-Factory trains."""
    from peft import get_peft_model

    return Variant(get_peft_model(load(data / "base"), lora(rank)))


def peers(data: Path, tasks: int) -> Variant:
    """One PEFT adapter per task, all active, the past ones frozen; O-LoRA's penalty as a loop over names."""
    import torch
    from peft import LoraConfig, get_peft_model

    def config() -> LoraConfig:
        return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM")

    model = get_peft_model(load(data / "base"), config(), adapter_name="t1")
    names = [f"t{i}" for i in range(1, tasks + 1)]
    for name in names[1:]:
        model.add_adapter(name, config())
    model.base_model.set_adapter(names)
    current = names[-1]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{current}." in name or "multi_modal_projector" in name)

    def loop(module: Any) -> Any:
        total = torch.zeros(())
        for name, parameter in module.named_parameters():
            if f"lora_A.{current}." in name:
                for other, past in module.named_parameters():
                    if (
                        "lora_A." in other
                        and f".{current}." not in other
                        and other.split("lora_A.")[0] == name.split("lora_A.")[0]
                    ):
                        total = total + 0.5 * torch.abs(parameter @ past.T).sum()
        return total

    return Variant(model, loop=loop)


WARM_UP = 5


def ratio(of: list[float], to: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(of[WARM_UP:], to[WARM_UP:], strict=True))


def judged(found: dict[str, Variant], variants: Iterable[str], tasks: int) -> dict[str, dict[str, Any]]:
    """Each variant at the last task against the targets; the ratios are of the step without the method's own terms."""

    def own(name: str) -> list[float]:
        v = found[name]
        return [s - t - f for s, t, f in zip(v.seconds, v.in_terms, v.in_teacher, strict=True)]

    verdicts = {}
    for name in variants:
        last = f"{name}, task {tasks}"
        limit = TARGETS_OF["stack" if name.endswith("stack") else "merged"]
        values = {
            "against_task_1": ratio(own(last), own(f"{name}, task 1")),
            "against_plain": ratio(own(last), own("plain LoRA")),
        }
        missed = [key for key, value in values.items() if value > limit]
        share = ratio(found[last].in_terms, found[last].seconds)
        missed += ["terms_share"] if share > TARGETS_OF["terms"] else []
        second = ratio(found[last].in_teacher, found[last].seconds)
        verdicts[name] = {**values, "terms_share": share, "second_forward_share": second, "missed": missed}
    return verdicts


def judged_routed(found: dict[str, Variant], ranks: dict[str, int], tasks: int) -> dict[str, dict[str, Any]]:
    """Each routed method at the last task against plain LoRA of the same summed rank, its own terms included."""
    verdicts = {}
    for name, rank in ranks.items():
        value = ratio(found[f"{name}, task {tasks}"].seconds, found[_plain_name(rank)].seconds)
        limit = LIMITS.get(name, LIMIT)
        verdicts[name] = {"rank": rank, "against_plain": value, "limit": limit, "missed": value > limit}
    return verdicts


def _plain_name(rank: int) -> str:
    return "plain LoRA" if rank == RANK else f"plain LoRA, rank {rank}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("demo_data"), help="made by python -m cl_plugins.data.demo")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--methods", nargs="+", help="only these, beside plain LoRA (default: all)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/step/result.json"))
    args = parser.parse_args()
    logging.disable(logging.INFO)
    import torch

    variants = {name: given for name, given in VARIANTS.items() if given[0] in (args.methods or given[0])}
    examples = batches(args.data, 4)
    found: dict[str, Variant] = {"plain LoRA": plain(args.data)}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (method, options) in variants.items():
            for tasks in (1, args.tasks):
                work = Path(scratch) / f"{name}-{tasks}"
                found[f"{name}, task {tasks}"] = ours(args.data, method, options, tasks, work, examples)
        ranks = {}
        for name, options in routed().items():
            if name not in (args.methods or name):
                continue
            work = Path(scratch) / f"{name}-routed"
            variant = ours(args.data, name, options, args.tasks, work, examples)
            found[f"{name}, task {args.tasks}"] = variant
            ranks[name] = summed_rank(variant.model) or RANK
            if _plain_name(ranks[name]) not in found:
                found[_plain_name(ranks[name])] = plain(args.data, ranks[name])
        found[f"peers' way, task {args.tasks}"] = peers(args.data, args.tasks)
        timed = batches(args.data, args.batch)
        order, rng = list(found.values()), random.Random(0)
        for number in range(args.rounds + WARM_UP):
            rng.shuffle(order)
            for variant in order:
                variant.step(timed[number % len(timed)])
    rows = []
    for name, variant in found.items():
        rows.append(
            {
                "variant": name,
                "ms": 1000 * statistics.median(variant.seconds[WARM_UP:]),
                "against_plain": ratio(variant.seconds, found["plain LoRA"].seconds),
                "terms_share": ratio(variant.in_terms, variant.seconds),
            }
        )
    print(f"{'':32}{'ms/step':>9}{'x plain':>9}{'terms':>11}")
    for row in rows:
        print(f"{row['variant']:32}{row['ms']:9.1f}{row['against_plain']:9.2f}{row['terms_share']:11.1%}")
    verdicts = judged(found, variants, args.tasks)
    head = f"task {args.tasks}, without terms"
    print(f"\n{head:30}{'x task 1':>9}{'x plain':>9}{'terms':>8}{'2nd fwd':>9}   targets")
    for name, verdict in verdicts.items():
        line = f"{name:30}{verdict['against_task_1']:9.2f}{verdict['against_plain']:9.2f}"
        line += f"{verdict['terms_share']:8.1%}{verdict['second_forward_share']:9.1%}"
        print(f"{line}   {'met' if not verdict['missed'] else 'missed: ' + ', '.join(verdict['missed'])}")
    by_sample = judged_routed(found, ranks, args.tasks)
    print(f"\n{f'routed, task {args.tasks}':30}{'rank':>9}{'x plain of this rank':>22}{'limit':>8}")
    for name, verdict in by_sample.items():
        line = f"{name:30}{verdict['rank']:9}{verdict['against_plain']:22.2f}{verdict['limit']:8.2f}"
        print(f"{line}   {'missed' if verdict['missed'] else 'met'}")
    result = {
        "rows": rows,
        "targets": TARGETS_OF,
        "judged": verdicts,
        "routed": by_sample,
        "tasks": args.tasks,
        "rounds": args.rounds,
        "batch": args.batch,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "llamafactory", "cl-plugins")},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
