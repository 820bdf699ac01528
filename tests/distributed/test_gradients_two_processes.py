"""Methods that change gradients, with two gloo ranks."""

from __future__ import annotations

import pytest
import tiny
from running import NO_TESTS, difference, go
from safetensors.torch import load_file


pytestmark = pytest.mark.slow


def test_two_processes_project_what_one_projects(llama, tmp_path, server):
    """Same global batch; answers of one token. The projection matters far more than the order of the sums."""
    data = tiny.build_data(tmp_path / "data", ("one", "two"), train=8, test=1, text_only=True)

    def keys(out, method, per_device, replay=None):
        block = {**NO_TESTS, **({"replay": replay} if replay else {})}
        return tiny.recipe(
            llama, data, out, method, ("one", "two"), text_only=True, cl=block, per_device_train_batch_size=per_device,
            max_steps=16, lr_scheduler_type="constant", use_reentrant_gc=False,
        )  # fmt: skip

    kept = {"capacity_per_task": 5}
    method = {"name": "gem", "samples": 5}
    go(keys(tmp_path / "single", method, 8, kept))
    server.run_in(2, keys(tmp_path / "double", method, 4, kept))
    go(keys(tmp_path / "plain", "seqlora", 8))
    one, two, plain = (
        load_file(tmp_path / name / "tasks" / "02_two" / "update.safetensors")
        for name in ("single", "double", "plain")
    )
    assert difference(one, two) < 0.1 * difference(one, plain)


def test_two_processes_stay_in_the_subspace_of_one(llama, text_data, tmp_path, server):
    """Plain gradient descent: Adam makes a full step of any gradient, also of one that is rounding alone."""

    def keys(out, per_device):
        return tiny.recipe(
            llama, text_data, out, "osf", ("one", "two"), text_only=True, cl=dict(NO_TESTS), max_steps=4, optim="sgd",
            learning_rate=0.1, max_grad_norm=0.0, per_device_train_batch_size=per_device,
        )  # fmt: skip

    go(keys(tmp_path / "single", 8))
    server.run_in(2, keys(tmp_path / "double", 4))
    for task in ("01_one", "02_two"):
        one, two = (
            load_file(tmp_path / name / "tasks" / task / "update.safetensors") for name in ("single", "double")
        )
        assert difference(one, two) <= 1e-4
