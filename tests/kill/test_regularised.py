"""EWC, LwF and SEFE are killed where their statistics are written and read: they go on to the very same end."""

from __future__ import annotations

import signal

import killed_runs as runs
import pytest


OPTIONS = {
    "ewc": {"name": "ewc", "weight": 1e3, "fisher_samples": 4},
    "lwf": {"name": "lwf", "alpha": 5.0},
    "sefe": {"name": "sefe", "weight": 20.0},
}
STATISTIC = {"ewc": "fisher", "lwf": "update", "sefe": "positions"}


@pytest.mark.parametrize("name", OPTIONS)
def test_killed_again_and_again(name, server, material, tmp_path):
    reference = runs.recipe(*material, tmp_path / "reference", OPTIONS[name], lora_dropout=0.1)
    keys = runs.recipe(*material, tmp_path / "out", OPTIONS[name], lora_dropout=0.1)
    assert server.run(reference).code == 0
    for label in (
        f"produced tasks/01_one/{STATISTIC[name]}.safetensors",
        "after carry",
        "after tasks/02_two/checkpoint-2",
        f"before tasks/02_two/{STATISTIC[name]}.safetensors",
    ):
        killed = server.run(keys, label)
        assert killed.code == -signal.SIGKILL, f"{label}: {killed.code}\n{killed.output[-3000:]}"
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert "\n".join(runs.differences(tmp_path / "out", tmp_path / "reference")) == ""
    ours, theirs = (next(tmp_path.glob(f"{out}/carry/**/*.safetensors")) for out in ("out", "reference"))
    assert ours.read_bytes() == theirs.read_bytes()
