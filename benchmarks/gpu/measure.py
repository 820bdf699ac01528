"""One measurement of `benchmarks.gpu`, inside the process that was started for it.

Both sides go through the same doors as a user's: `run_exp` of LLaMA-Factory for what ``llamafactory-cli train`` does, with ``cl:`` or
without. Keys that are refused with ``cl:`` take another way (`run_unchecked`). A callback notes the time of every optimizer step, with
the card synchronised, from the end of one step to the end of the next, so that reading the data is included.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import SCALES, Cell, by_name
from benchmarks.gpu.clock import clock, peak, reset_peak
from benchmarks.gpu.shapes import BENCH, TASKS, Scale, is_made, make_base, make_data


PRELOADED = (
    "llamafactory.train.tuner",
    "benchmarks.eval.child",
    "benchmarks.eval.run",
    "cl_plugins.host.session",
    "cl_plugins.host.fingerprint",
    "cl_plugins.host.llama_factory",
    "cl_plugins.host.trainer",
    "cl_plugins.run.check",
    "cl_plugins.run.runner",
    "cl_plugins.run.trackers",
    "cl_plugins.training.mixin",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "peft.tuners.lora",
)
SAVE_EVERY, KILLED_AT = 2, 3  # optimizer steps of the second task, in the cell `resume`


def preload() -> None:
    """Import what every measurement needs; some of it asks the card for its abilities."""
    import torch
    from transformers import AutoModelForImageTextToText

    for name in PRELOADED:
        import_module(name)
    list(
        AutoModelForImageTextToText._model_mapping.keys()
    )  # LLaMA-Factory looks there, which imports each kind of model
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())


def measure(order: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a measurement.

    Args:
        order: ``cell``, ``scale`` and ``leg`` by name, and the folder ``work``.

    Returns:
        What was measured, without the facts of the machine.
    """
    cell, scale, work = by_name()[order["cell"]], SCALES[order["scale"]], Path(order["work"])
    base = work / f"base_{cell.model}"
    if cell.kind == "base":
        return make_base(base, scale.shapes[cell.model], gpu=scale.gpu)
    if not is_made(base, scale.shapes[cell.model]):
        raise RuntimeError(f"its model was not made: see the row 'base {cell.model}'")
    make_data(work / "data", scale)
    out = work / "runs" / cell.file_name
    if cell.kind == "train":
        return trained(cell, scale, work, base, out)
    if cell.kind == "resume":
        return resumed(cell, scale, work, base, out, str(order["leg"]))
    return answered(cell, scale, work, base, out)


# --- training ----------------------------------------------------------------------------------------------------


def common_keys(scale: Scale, data: Path, base: Path, out: Path) -> dict[str, Any]:
    """LLaMA-Factory's keys that all trainings share.

    Args:
        scale: Sizes.
        data: Folder of the data sets.
        base: Folder of the model.
        out: The output directory.
    """
    precision = {"bf16": True} if scale.gpu else {"use_cpu": True}
    return {
        "model_name_or_path": str(base), "template": "llava", "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_target": "all", "lora_rank": scale.rank, "dataset_dir": str(data), "cutoff_len": scale.cutoff,
        "per_device_train_batch_size": scale.batch, "per_device_eval_batch_size": scale.eval_batch, "max_steps": scale.steps,
        "learning_rate": 1e-4, "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "disable_gradient_checkpointing": True, "dataloader_num_workers": scale.workers, "seed": 0, "output_dir": str(out),
        **precision,
    }  # fmt: skip


def block(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A ``cl:`` block of two tasks without tests, which ends behind the second consolidation.

    Args:
        method: Name of the method.
        options: Its options.
    """
    tasks = [
        {"name": name, "train": name, "test": BENCH, "scorer": "bleu", "modality": f"modality_{name}"}
        for name in TASKS
    ]
    return {
        "stream": {"name": "gpu_check", "tasks": tasks}, "method": {"name": method, **options}, "eval": {"scope": "none"},
        "stop_after": 2 * len(TASKS),
    }  # fmt: skip


def recipe(cell: Cell, scale: Scale, data: Path, base: Path, out: Path) -> dict[str, Any]:
    """The recipe of a cell, without the keys that are added below the check.

    Args:
        cell: The cell.
        scale: Sizes.
        data: Folder of the data sets.
        base: Folder of the model.
        out: The output directory.
    """
    keys = {**common_keys(scale, data, base, out), **cell.keys}
    if keys["finetuning_type"] == "full":
        keys = {key: value for key, value in keys.items() if not key.startswith("lora_")}
    if cell.method is None:
        return {**keys, **cell.unchecked, "dataset": TASKS[0]}
    return {**keys, "cl": block(cell.method, cell.options)}


def run_unchecked(keys: dict[str, Any], added: Mapping[str, Any], callbacks: Sequence[Any]) -> None:
    """Carry out a recipe with keys that its check refuses: they are added when it has been checked without them.

    This is `cl_plugins.run.entry.run_stream` with the checked recipe, as LLaMA-Factory's `run_sft` calls it.

    Args:
        keys: The recipe.
        added: Keys of LLaMA-Factory.
        callbacks: Trainer callbacks.
    """
    from cl_plugins.host.llama_factory import LlamaFactoryHost
    from cl_plugins.host.quiet import once
    from cl_plugins.run.check import check
    from cl_plugins.run.entry import run_stream

    host = LlamaFactoryHost()
    checked = check(host, keys)
    with once():
        run_stream(host, dataclasses.replace(checked, host_keys={**checked.host_keys, **added}), callbacks)


def carry_out(cell: Cell, keys: dict[str, Any], callbacks: Sequence[Any]) -> None:
    """Run a recipe as a user does, or below the check where the cell has keys that are refused.

    Args:
        cell: The cell.
        keys: Its recipe.
        callbacks: Trainer callbacks.
    """
    from llamafactory.train.tuner import run_exp

    if cell.method is not None and cell.unchecked:
        run_unchecked(keys, cell.unchecked, callbacks)
    else:
        run_exp(dict(keys), callbacks=list(callbacks))


def trained(cell: Cell, scale: Scale, work: Path, base: Path, out: Path) -> dict[str, Any]:
    """Steps per second, peak memory, and with a method the boundary between its two tasks.

    Args:
        cell: The cell.
        scale: Sizes.
        work: Folder with ``data``.
        base: Folder of the model.
        out: Folder of the run, removed afterwards.

    Raises:
        RuntimeError: If a loss is not finite, or a task has not trained.
    """
    shutil.rmtree(out, ignore_errors=True)
    watch = clock(scale.warm)
    try:
        carry_out(cell, recipe(cell, scale, work / "data", base, out), [watch])
        found = watch.found()
        if cell.method is not None:
            found["consolidate_seconds"] = consolidations(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if len(found["trainings"]) != (1 if cell.method is None else len(TASKS)):
        raise RuntimeError(f"{len(found['trainings'])} trainings were seen")
    if not all(math.isfinite(loss) for training in found["trainings"] for loss in training["losses"]):
        raise RuntimeError("a loss is not finite")
    return found


def consolidations(out: Path) -> list[float]:
    """Seconds of the steps ``consolidate`` of a run.

    Args:
        out: Its directory.
    """
    entries = [json.loads(line) for line in (out / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    return [entry["seconds"] for entry in entries if entry["step"].startswith("consolidate:")]


# --- answers -----------------------------------------------------------------------------------------------------


def answered(cell: Cell, scale: Scale, work: Path, base: Path, out: Path) -> dict[str, Any]:
    """Tokens per second of answering a test set, by LLaMA-Factory's predict or by a run's evaluation of the base.

    Starting, tokenising and scoring are not counted (`benchmarks.eval.child`).

    Args:
        cell: The cell.
        scale: Sizes.
        work: Folder with ``data``.
        base: Folder of the model.
        out: Folder of the run, removed afterwards.
    """
    from benchmarks.eval import child
    from benchmarks.eval.run import LONGEST
    from benchmarks.eval.run import recipe as bench_recipe

    side = "host" if cell.kind == "host answers" else "ours"
    shutil.rmtree(out, ignore_errors=True)
    keys = {**bench_recipe(side, work, base, scale.eval_batch, out), "cutoff_len": scale.cutoff, **cell.keys}
    if scale.gpu:
        keys = {**keys, "use_cpu": False, "bf16": True}
    if side == "host":
        without_metrics()
    reset_peak()
    try:
        watch, _ = {"host": child.host, "ours": child.ours}[side](keys)
        name, key = {
            "host": ("generated_predictions.jsonl", "predict"),
            "ours": ("predictions/zero_shot/bench.jsonl", "prediction"),
        }[side]
        lines = (out / name).read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)[key] for line in lines]
    finally:
        shutil.rmtree(out, ignore_errors=True)
    tokens = len(texts) * LONGEST  # no answer ends by itself: `shapes.silence`
    marks = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]
    return {
        "tokens_per_second": tokens / watch.clock, "seconds_answering": watch.clock, "items": len(texts), "tokens": tokens,
        "peak_bytes": peak(), "texts": marks,
    }  # fmt: skip


def without_metrics() -> None:
    """Let LLaMA-Factory predict without its BLEU and ROUGE, which need three packages and are not measured here."""
    from llamafactory.hparams import parser
    from llamafactory.train.sft import workflow

    check = parser.check_version

    def lenient(requirement: str, mandatory: bool = False) -> None:
        if requirement not in ("jieba", "nltk", "rouge_chinese"):
            check(requirement, mandatory)

    parser.check_version = lenient
    workflow.ComputeSimilarity.__call__ = lambda self, predictions, compute_result=True: {}


# --- killed and resumed ------------------------------------------------------------------------------------------


def resumed(cell: Cell, scale: Scale, work: Path, base: Path, out: Path, leg: str) -> dict[str, Any]:
    """One leg of the comparison of a killed and resumed run with an uninterrupted one.

    Args:
        cell: The cell.
        scale: Sizes.
        work: Folder with ``data``.
        base: Folder of the model.
        out: Folder of the runs.
        leg: ``whole`` and ``again`` are uninterrupted, ``killed`` ends itself by SIGKILL, ``resumed`` goes on from there.

    Returns:
        For ``resumed`` and ``again`` the distance of the updates from those of ``whole``.
    """
    import torch
    from transformers import TrainerCallback

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward stays non-deterministic even so
    folder = out / ("killed" if leg == "resumed" else leg)
    if leg != "resumed":
        shutil.rmtree(out if leg == "whole" else folder, ignore_errors=True)

    class Kill(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if TASKS[1] in Path(args.output_dir).name and state.global_step == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)

    watch = clock(scale.warm)
    keys = {**recipe(cell, scale, work / "data", base, folder), "save_strategy": "steps", "save_steps": SAVE_EVERY}
    if leg == "resumed":
        keys["cl"]["stop_after"] = 2  # counted from this start: what is left of the second task
    carry_out(cell, keys, [watch, *([Kill()] if leg == "killed" else [])])
    if leg == "killed":
        raise RuntimeError("the run was not killed")
    found: dict[str, Any] = {"steps": [len(t["ends"]) for t in watch.trainings]}
    if leg == "resumed" and found["steps"] != [scale.steps - SAVE_EVERY]:
        raise RuntimeError(
            f"it did not go on from the checkpoint of step {SAVE_EVERY}: {found['steps']} steps were trained"
        )
    if leg != "whole":
        found["distance"] = distance(out / "whole", folder)
    return found


def distance(a: Path, b: Path) -> float:
    """Relative L2 distance of all tensors that two runs have learned and carried; 0 if they are equal to the last bit.

    Args:
        a: Directory of a run.
        b: Directory of the other.

    Raises:
        RuntimeError: If the runs have other files or tensors, or numbers that are not finite.
    """
    from safetensors.torch import load_file

    names = [
        sorted(
            str(path.relative_to(run)) for part in ("tasks/*", "carry") for path in run.glob(f"{part}/*.safetensors")
        )
        for run in (a, b)
    ]
    if not names[0] or names[0] != names[1]:
        raise RuntimeError(f"the runs left other files: {sorted({*names[0]} ^ {*names[1]})[:4]}")
    apart = size = 0.0
    for name in names[0]:
        one, other = load_file(a / name), load_file(b / name)
        if one.keys() != other.keys():
            raise RuntimeError(f"{name} has other tensors in the two runs")
        for key, value in one.items():
            size += float(value.double().square().sum())
            apart += float((value.double() - other[key].double()).square().sum())
    if not math.isfinite(apart):
        raise RuntimeError("the updates are not finite")
    return (apart / size) ** 0.5 if size else apart**0.5
