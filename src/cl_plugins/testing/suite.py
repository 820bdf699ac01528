"""What must hold for every method, as functions that raise `AssertionError` with a sentence.

`check_method` runs all of it; a test suite may call the functions one by one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..loading import load
from . import tiny
from .case import MethodCase
from .watch import Watched, logits, watch


TASKS = ("one", "two", "three")
#: What is rebuilt tensor by tensor gives the same logits also in bf16. A sum of low-rank terms next to the
#: weights adds in another order: a few of the steps of bf16 (2^-8).
STACKED = 2e-2


@dataclass(frozen=True)
class Observed:
    """A finished run of a case on three small picture tasks.

    Attributes:
        case: The case.
        seen: What was seen of it.
        out: Its directory.
        model: Folder of its base.
        data: Folder of its data.
        keys: Its recipe.
    """

    case: MethodCase
    seen: Watched
    out: Path
    model: Path
    data: Path
    keys: dict[str, Any]


def recipe(case: MethodCase, model: Path, data: Path, out: Path, **more: Any) -> dict[str, Any]:
    """The recipe of a case on the small tasks."""
    return tiny.recipe(model, data, out, dict(case.method), cl=dict(case.block), **{**case.keys, **more})


def observe(case: MethodCase, model: Path, data: Path, out: Path) -> Observed:
    """Carry out a case and inspect the result."""
    keys = recipe(case, model, data, out)
    return Observed(case, watch(keys), out, model, data, keys)


def expect(holds: Any, sentence: str) -> None:
    """Raise unless something holds.

    Raises:
        AssertionError: With the sentence.
    """
    if not holds:
        raise AssertionError(sentence)


def _method(case: MethodCase) -> Any:
    from ..methods import get_method

    return get_method(case.name)


def schedule(case: MethodCase) -> str:
    """The schedule of the case's method."""
    return str(_method(case).capabilities.schedule)


def boundary_identity(observed: Observed) -> None:
    """The model rebuilt from what was written computes what the trained model computed."""
    seen, bound = observed.seen, observed.case.boundary
    expect(len(seen.before) == len(seen.after) >= 1, "not every task was trained and consolidated")
    count = 1 if observed.case.apart else None
    for number, (before, after) in enumerate(zip(seen.before[:count], seen.after[:count], strict=True), start=1):
        change = float((before - after).abs().max() / before.abs().max())
        expect(
            change <= bound, f"boundary of task {number}: the logits change by {change:.2e}, allowed are {bound:.0e}"
        )


def next_task_starts_where_the_last_ended(observed: Observed) -> None:
    """A fresh update contributes nothing; sequential methods start from the consolidated model."""
    case = observed.case
    if schedule(case) != "sequential" or case.apart or not case.continues:
        return
    for number, (start, end) in enumerate(
        zip(observed.seen.fresh[1:], observed.seen.after[:-1], strict=True), start=2
    ):
        change = float((start - end).abs().max())
        expect(change == 0, f"task {number} starts {change:.2e} away from the end of the one before")


def training_changed_the_model(observed: Observed) -> None:
    """Training moves the logits by more than a boundary may, or the bound would prove nothing."""
    bound = observed.case.boundary
    for number, (fresh, before) in enumerate(zip(observed.seen.fresh, observed.seen.before, strict=True), start=1):
        change, scale = float((fresh - before).abs().max()), float(before.abs().max())
        expect(
            change > max(1e-4, 5 * bound * scale), f"task {number}: training changed the logits by {change:.2e} only"
        )


def every_trainable_tensor_changed(observed: Observed) -> None:
    """Nothing that is called trainable stays without a gradient."""
    unchosen = observed.case.unchosen
    for changed, trainable in zip(observed.seen.changed, observed.seen.trainable, strict=True):
        missing = sorted(name for name in set(trainable) - set(changed) if not name.endswith(unchosen))
        expect(not missing, f"training did not change trainable tensors: {missing[:5]}")


def frozen_tensors_are_bit_identical(observed: Observed) -> None:
    """Frozen tensors keep their bits while a task trains."""
    expect(observed.seen.frozen and all(observed.seen.frozen), "training changed a frozen tensor")


def terms_are_finite_and_act(observed: Observed, *, expected: bool) -> None:
    """Terms appear in the logs from the second task on, finite and not zero throughout."""
    for folder in sorted((observed.out / "tasks").iterdir())[1:]:
        history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        values = [v for entry in history for k, v in entry.items() if k.startswith("penalty/")]
        expect(bool(values) == expected, f"{folder.name}: terms in the log: {bool(values)}, expected: {expected}")
        expect(all(map(math.isfinite, values)), f"{folder.name}: a term is not finite")
        expect(not expected or max(map(abs, values)) > 0, f"{folder.name}: the terms are zero throughout")


def final_is_the_last_model(observed: Observed) -> None:
    """``final/`` gives the logits of the model that was evaluated last, opened without this package where that is possible."""
    final = observed.out / "final"
    kind = json.loads((final / "MANIFEST.json").read_text(encoding="utf-8"))["kind"]
    if kind == "routed":
        got, bound = logits(load(final), observed.seen.ids, observed.seen.pixels), 0.0
    else:
        got = logits(_opened(observed, kind), observed.seen.ids, observed.seen.pixels)
        bound = STACKED if observed.case.half else 1e-5
    last = observed.seen.after[-1]
    change = float((got - last).abs().max() / last.abs().max())
    expect(change <= bound, f"final/ ({kind}) gives logits that are {change:.2e} away from the run's last model")


def _opened(observed: Observed, kind: str) -> Any:
    import torch
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

    final = observed.out / "final"
    if kind != "peft":
        model = LlavaForConditionalGeneration.from_pretrained(final)
        text: Any = model.config.text_config
        expect(text.use_cache is True, "final/ was saved with use_cache: false")
        return model
    dtype = torch.bfloat16 if observed.case.half else torch.float32
    return PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(observed.model, dtype=dtype), final)


def what_a_run_leaves_behind(observed: Observed) -> None:
    """Reports, journal, matrix and predictions are there; no partial file and no pickle of a run."""
    out = observed.out
    names = "run.json journal.jsonl matrix.json metrics.json report.md report.html matrix.png forgetting.png matrix.csv matrix.tex"
    for name in names.split():
        expect((out / name).is_file() and (out / name).stat().st_size > 0, f"{name} is missing")
    lines = (out / "journal.jsonl").read_text(encoding="utf-8").strip().split("\n")
    expect(json.loads(lines[-1])["step"] == "finish", "the journal does not end with finish")
    matrix = json.loads((out / "matrix.json").read_text(encoding="utf-8"))
    expect(matrix["tasks"] == list(TASKS), "the matrix has other tasks")
    expect(all(v is not None for v in matrix["zero_shot"]), "the zero-shot row has missing cells")
    for path in out.glob("predictions/*/*.jsonl"):
        ids = [
            json.loads(line)["id"].rsplit("-", 1)[1] for line in path.read_text(encoding="utf-8").strip().split("\n")
        ]
        expect(ids == [str(i) for i in range(6)], f"{path}: other items than those of the test set")
    left = [str(p) for pattern in ("*.tmp", "*.pt") for p in out.rglob(pattern)]
    left += [str(p) for p in out.rglob("*.bin") if p.name != "training_args.bin"]
    expect(not left, f"left behind: {left}")


def carry_is_safetensors_and_json_only(observed: Observed) -> None:
    """No other file format in a carry, but for the media of a replay buffer."""
    for path in (observed.out / "carry").rglob("*"):
        if path.parent.name == "media":
            expect(observed.case.block.get("replay"), f"{path}: media without replay")
            continue
        expect(path.is_dir() or path.suffix in {".safetensors", ".json", ".jsonl"}, f"{path}: another format")


def only_replay_carries_training_samples(observed: Observed) -> None:
    """Text, id and picture of every training sample, looked for in every byte of the carry."""
    carried = [p.read_bytes() for p in (observed.out / "carry").rglob("*") if p.is_file()]
    traces = [b"what colour is this picture"]
    for task in TASKS:
        traces += [f"{task}-train-{i}".encode() for i in range(24)]
        for path in observed.data.glob(f"images/{task}_train_*.png"):
            pixels = path.read_bytes()
            traces += [pixels, pixels[pixels.index(b"IDAT") + 4 :][:64], path.name.encode()]
    found = {trace for trace in traces if any(trace in content for content in carried)}
    if observed.case.block.get("replay"):
        expect(len(found) > 3 * 5, "a replay buffer holds none of the training samples")
    else:
        expect(not found, f"the carry holds training samples, e.g. {next(iter(found), b'')[:40]!r}")


def a_finished_run_does_nothing_again(observed: Observed) -> None:
    """The same command again leaves the journal as it is."""
    from llamafactory.train.tuner import run_exp

    journal = (observed.out / "journal.jsonl").read_bytes()
    run_exp(dict(observed.keys))
    expect((observed.out / "journal.jsonl").read_bytes() == journal, "a finished run repeated a step")


CHECKS = (
    boundary_identity,
    next_task_starts_where_the_last_ended,
    training_changed_the_model,
    every_trainable_tensor_changed,
    frozen_tensors_are_bit_identical,
    final_is_the_last_model,
    what_a_run_leaves_behind,
    carry_is_safetensors_and_json_only,
    only_replay_carries_training_samples,
    a_finished_run_does_nothing_again,
)
