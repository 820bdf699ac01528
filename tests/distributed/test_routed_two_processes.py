"""Routed methods with two gloo ranks: every rank's parameters get their gradients, and both learn what one learns."""

from __future__ import annotations

import pytest
import tiny
from launch import launch
from running import NO_TESTS, go
from safetensors.torch import load_file


METHODS = {"moelora": {"name": "moelora", "experts": 2}}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_what_one_learns(llava, data, tmp_path, method):
    """Same global batch, accumulated on one side and split on the other; answers of one token."""

    def keys(out, **layout):
        return tiny.recipe(llava, data, out, METHODS[method], ("one", "two"), cl=dict(NO_TESTS), **layout)

    single, double = tmp_path / "single", tmp_path / "double"
    go(keys(single, per_device_train_batch_size=4, gradient_accumulation_steps=2))
    launch(keys(double, per_device_train_batch_size=4), tmp_path)
    for task in ("01_one", "02_two"):
        a, b = (load_file(out / "tasks" / task / "update.safetensors") for out in (single, double))
        difference = sum(float((a[n] - b[n]).double().square().sum()) for n in a) ** 0.5
        assert difference <= 1e-4 * sum(float(a[n].double().square().sum()) for n in a) ** 0.5
