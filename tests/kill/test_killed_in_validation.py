"""A task that ends early, with its best weights, is killed: it goes on to the very same end."""

from __future__ import annotations

import shutil
import signal

import killed_runs as runs
import pytest
from validated import BEST, add_valid, stream


@pytest.mark.kill
def test_killed_around_the_best_checkpoint_and_the_end(server, material, tmp_path):
    model, data = material
    data = add_valid(shutil.copytree(data, tmp_path / "data"))
    best = {**BEST, "early_stopping_steps": 2, "max_steps": 8, "learning_rate": 0.1, "save_total_limit": 1}

    def recipe(out):
        block = {"stream": stream(), "task_overrides": {"two": {"lr_scheduler_type": "constant"}}}
        return runs.recipe(model, data, tmp_path / out, "inclora", cl=block, **best)

    assert server.run(recipe("reference")).code == 0
    details = runs.journal(tmp_path / "reference")["train:two"]["details"]
    step, last = details["valid_step"], details["optimizer_steps"]
    assert step < last < 8
    keys = recipe("out")
    labels = [f"after tasks/02_two/checkpoint-{at}" for at in sorted({step, last})]
    for label in (*labels, "before tasks/02_two/update.safetensors", "after carry"):
        killed = server.run(keys, label)
        assert killed.code == -signal.SIGKILL, f"{label}: {killed.code}\n{killed.output[-3000:]}"
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert "\n".join(runs.differences(tmp_path / "out", tmp_path / "reference")) == ""
