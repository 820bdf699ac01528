"""Two gloo ranks keep the samples that one process keeps, and learn the same from them."""

from __future__ import annotations

import json

import pytest
import tiny
from method_cases import REPLAY_CASES
from running import difference, go
from safetensors.torch import load_file


TASKS = ("one", "two")
FAST = "der_five"  # part of `make test`; the others are in `make test-slow`
CASES = [
    pytest.param(case, id=case.id, marks=() if case.id == FAST else pytest.mark.slow)
    for case in REPLAY_CASES
    if case.ranks
]


def keys(model, data, out, case, per_device):
    block = {"replay": dict(case.replay), "eval": {"scope": "none"}}
    # plain gradient descent: Adam's first step makes a full step of any gradient, also of one that is rounding alone
    plain = {
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 2,
    }
    plain["use_reentrant_gc"] = False  # two forwards under DDP
    return tiny.recipe(
        model,
        data,
        out,
        dict(case.method),
        TASKS,
        text_only=True,
        cl=block,
        per_device_train_batch_size=per_device,
        **plain,
    )


@pytest.fixture(scope="module", params=CASES)
def both(request, llama, text_data, tmp_path_factory, server):
    """The same recipe at the same global batch, in one process and in two."""
    folder = tmp_path_factory.mktemp(f"two-{request.param.id}")
    single, double = folder / "single", folder / "double"
    go(keys(llama, text_data, single, request.param, 8))
    server.run_in(2, keys(llama, text_data, double, request.param, 4))
    return single, double


def test_the_same_samples(both):
    single, double = (json.loads((out / "carry" / "replay" / "manifest.json").read_text())["samples"] for out in both)
    assert len(single) in (10, 7)
    assert [s["uid"] for s in single] == [s["uid"] for s in double]


def test_the_same_weights(both):
    """The memory samples of an optimizer step do not depend on how it is shared out."""
    single, double = both
    for task in ("01_one", "02_two"):
        a, b = (load_file(out / "tasks" / task / "update.safetensors") for out in (single, double))
        assert difference(a, b) <= 1e-4


def test_the_same_logits(both):
    files = [out / "carry" / "replay" / "memory_logits.safetensors" for out in both]
    assert files[0].exists() == files[1].exists()
    if files[0].exists():
        a, b = map(load_file, files)
        assert a.keys() == b.keys()
        assert all((a[n].float() - b[n].float()).abs().max() < 0.05 for n in a if n.endswith("logprobs"))
