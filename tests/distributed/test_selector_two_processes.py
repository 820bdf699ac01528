"""A selector's statistics with two gloo ranks are those of one."""

from __future__ import annotations

import pytest
import tiny
import torch
from running import NO_TESTS, go
from safetensors.torch import load_file


pytestmark = pytest.mark.slow
METHODS = {"ridge": {"name": "single_task", "selector": {"kind": "ridge"}}, "anchors": {"name": "hide"}}


@pytest.mark.parametrize("kind", METHODS)
def test_statistics_of_two_ranks_are_those_of_one(llava, data, tmp_path, kind, server):
    method = METHODS[kind]

    def keys(out, **layout):
        more = {"max_samples": 23, "max_steps": 2, **layout}  # an odd number: the ranks have unequal shares
        return tiny.recipe(llava, data, out, method, ("one", "two"), cl=dict(NO_TESTS), **more)

    go(keys(tmp_path / "single", per_device_train_batch_size=4, gradient_accumulation_steps=2))
    server.run_in(2, keys(tmp_path / "double", per_device_train_batch_size=4))
    one, two = (load_file(tmp_path / out / "carry" / "selector.safetensors") for out in ("single", "double"))
    assert one["sums"].shape == (2, one["gram"].shape[0] if kind == "ridge" else 2 * 48)
    assert kind == "ridge" or one["counts"].tolist() == two["counts"].tolist() == [[23, 23]] * 2
    for name, value in one.items():
        assert value.dtype == torch.float64
        assert (value - two[name]).abs().max() <= 1e-5 * value.abs().max()  # the features themselves are in fp32


def test_keys_and_branches_of_two_ranks_are_those_of_one(llava, data, tmp_path, server):
    """The keys' term joins the loss outside of the wrapped forward, and unchosen branches have no gradient of a row."""
    from running import difference

    selector = {"kind": "keys", "rate": 10.0}
    method = {"name": "branchlora", "branches": 4, "gate_input": "token", "selector": selector}

    def keys(out, **layout):
        return tiny.recipe(llava, data, out, method, ("one", "two"), cl=dict(NO_TESTS), max_steps=3, **layout)

    go(keys(tmp_path / "single", per_device_train_batch_size=4, gradient_accumulation_steps=2))
    server.run_in(2, keys(tmp_path / "double", per_device_train_batch_size=4))
    for task in ("01_one", "02_two"):
        one, two = (load_file(tmp_path / o / "tasks" / task / "update.safetensors") for o in ("single", "double"))
        assert {"cl_key_text", "cl_key_vision"} < set(one)
        assert difference(one, two) <= 1e-4
        usage, other = (load_file(tmp_path / o / "tasks" / task / "usage.safetensors") for o in ("single", "double"))
        assert difference(usage, other) <= 1e-4
