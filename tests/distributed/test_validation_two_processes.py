"""Two processes measure the validation loss that one does, and end with the best weights."""

from __future__ import annotations

import shutil

import pytest
from validated import BEST, VALID, add_valid, details, go, losses, validated


@pytest.mark.slow
def test_the_loss_of_one_process_and_the_best_weights_of_two(llama, text_data, tmp_path, server):
    data = shutil.copytree(text_data, tmp_path / "data")
    for task in ("one", "two"):
        add_valid(data, (task,), count=8)  # Transformers counts samples twice where the ranks' shares are not equal
    rate = {"learning_rate": 0.1, "lr_scheduler_type": "constant", "max_steps": 9, "early_stopping_steps": 2}
    keys = {**BEST, **rate, "per_device_eval_batch_size": 1}
    go(validated(llama, data, tmp_path / "single", per_device_train_batch_size=8, **keys))
    server.run_in(2, validated(llama, data, tmp_path / "double", per_device_train_batch_size=4, **keys))
    expected = [pytest.approx(loss, rel=1e-4) for _, loss in losses(tmp_path / "single", "01_one")]
    assert [loss for _, loss in losses(tmp_path / "double", "01_one")] == expected
    assert details(tmp_path / "double", "train:one")["optimizer_steps"] == len(expected)

    steps = {task: details(tmp_path / "double", f"train:{task}")["valid_step"] for task in ("one", "two")}
    short = {**VALID, "learning_rate": 0.1, "lr_scheduler_type": "constant", "per_device_eval_batch_size": 1}
    block = {"task_overrides": {task: {"max_steps": step} for task, step in steps.items()}}
    server.run_in(2, validated(llama, data, tmp_path / "short", per_device_train_batch_size=4, cl=block, **short))
    for folder in ("01_one", "02_two"):
        best, plain = (tmp_path / out / "tasks" / folder / "update.safetensors" for out in ("double", "short"))
        assert best.read_bytes() == plain.read_bytes()
