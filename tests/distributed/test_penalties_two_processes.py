"""Terms with two gloo ranks: worth the same as in one process, and their own parameters do not disturb DDP."""

from __future__ import annotations

import json

import pytest
import tiny
from method_cases import in_two_processes
from regularised import logged
from running import NO_TESTS, difference, go


@pytest.mark.parametrize("case", in_two_processes(term=True))
def test_two_processes_learn_what_one_learns(case, llama, text_data, tmp_path, server):
    """Same global batch, accumulated on one side and split on the other; answers of one token."""
    from safetensors.torch import load_file

    def keys(out, **layout):
        return tiny.recipe(
            llama, text_data, out, case.given(case.ranks), ("one", "two"), text_only=True, cl=dict(NO_TESTS), **layout
        )

    single, double = tmp_path / "single", tmp_path / "double"
    go(keys(single, per_device_train_batch_size=4, gradient_accumulation_steps=2))
    server.run_in(2, keys(double, per_device_train_batch_size=4))
    for task in ("01_one", "02_two"):
        a, b = (load_file(out / "tasks" / task / "update.safetensors") for out in (single, double))
        assert difference(a, b) <= 1e-4
    history = json.loads((single / "tasks" / "02_two" / "trainer_state.json").read_text())["log_history"]
    names = {key.removeprefix("penalty/") for entry in history for key in entry if key.startswith("penalty/")}
    assert names
    for name in names - {"lwf", "pull", "guide_text"}:  # of a term of the micro-batch each rank logs its own share
        ours, theirs = logged(double, name), logged(single, name)
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-9)
        assert max(map(abs, ours)) > 0
    one, two = (json.loads((out / "tasks" / "02_two" / "update.json").read_text())["meta"] for out in (single, double))
    assert one.keys() == two.keys()
    if case.method.get("learnable"):
        assert two["log_alpha"] == pytest.approx(one["log_alpha"], rel=1e-4)
        assert two["log_beta"] < -4.6
