"""What the tests of the regularising methods share: two short text tasks, and how far two updates are apart."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
from running import NO_TESTS, go
from safetensors.torch import load_file


def text_tasks(folder, tasks=("one", "two"), train=4):
    return tiny.build_data(folder, tasks, train=train, test=1, text_only=True)


def in_layouts(model, folder, method):
    """Updates of the second of two tasks of eight samples, all of which are in every optimizer step.

    Returns:
        Of `method`: by layout (8 x 1 first) the tensors, and those of sequential training without terms.
    """
    data = text_tasks(folder / "data", train=8)
    plain = {"name": "inclora"} if method["name"] == "sefe" else {"name": "seqlora"}
    without = tensors(train(model, data, folder / "plain", plain, layout=(8, 1)))
    layouts = [(8, 1), (2, 4), (1, 8)]
    return [tensors(train(model, data, folder / f"{b}x{a}", method, layout=(b, a))) for b, a in layouts], without


def train(model, data, out, method, tasks=("one", "two"), layout=(4, 1), cl=None, **keys) -> Path:
    """Plain SGD without clipping, so that a step is the learning rate times the gradient."""
    defaults = {
        "max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
    }  # fmt: skip
    batch, accumulate = layout
    recipe = tiny.recipe(
        model, data, out, method, tasks, text_only=True, cl={**NO_TESTS, **(cl or {})}, per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate, **{**defaults, **keys},
    )  # fmt: skip
    go(recipe)
    return out


def tensors(out, task="02_two", name="update"):
    return load_file(out / "tasks" / task / f"{name}.safetensors")


def gap(a, b):
    """Largest difference, relative to the largest value."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp_min(1e-12)) for n in a)


def logged(out, name, task="02_two"):
    """The values of a term at the logged steps of a task."""
    state = json.loads((out / "tasks" / task / "trainer_state.json").read_text())
    return [entry[f"penalty/{name}"] for entry in state["log_history"] if f"penalty/{name}" in entry]


def same_files(a, b, pattern):
    """Whether two runs hold the same files with the same bytes."""
    found = [{p.relative_to(out): p.read_bytes() for p in out.glob(pattern) if p.is_file()} for out in (a, b)]
    assert found[0], pattern
    return found[0] == found[1]
