"""Methods with terms or a buffer are killed where their files are written and read: they go on to the very same end."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import killed_runs as runs
import pytest


@dataclass(frozen=True)
class Case:
    """A method, what it writes after a task beside the update, and further keys of the ``cl:`` block."""

    method: dict
    written: str
    block: dict = field(default_factory=dict)


REPLAY = {"replay": {"capacity_per_task": 3}}
CASES = {
    "ewc": Case({"name": "ewc", "weight": 1e3, "fisher_samples": 4}, "fisher.safetensors"),
    "lwf": Case({"name": "lwf", "alpha": 5.0}, "update.safetensors"),
    "sefe": Case({"name": "sefe", "weight": 20.0}, "positions.safetensors"),
}
MORE = {
    "olora": Case({"name": "olora", "lambda_2": 0.01}, "update.safetensors"),
    "mslora_cr-stack": Case({"name": "mslora_cr", "consolidate": "stack"}, "update.safetensors"),
    "mslora_cr-learnable": Case({"name": "mslora_cr", "learnable": True}, "update.json"),
    "inclora-replay": Case({"name": "inclora"}, "replay.json", REPLAY),
    "der": Case({"name": "der"}, "memory_logits.safetensors", REPLAY),
}
EVERY = [*CASES, *(pytest.param(name, marks=pytest.mark.kill) for name in MORE)]


@pytest.mark.parametrize("name", EVERY)
def test_killed_again_and_again(name, server, material, tmp_path):
    case = {**CASES, **MORE}[name]

    def recipe(out):
        return runs.recipe(*material, tmp_path / out, case.method, lora_dropout=0.1, cl=dict(case.block))

    assert server.run(recipe("reference")).code == 0
    keys = recipe("out")
    for label in (
        f"produced tasks/01_one/{case.written}",
        "after carry",
        "after tasks/02_two/checkpoint-2",
        f"before tasks/02_two/{case.written}",
    ):
        killed = server.run(keys, label)
        assert killed.code == -signal.SIGKILL, f"{label}: {killed.code}\n{killed.output[-3000:]}"
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert "\n".join(runs.differences(tmp_path / "out", tmp_path / "reference")) == ""
    ours, theirs = (
        {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out / "carry").rglob("*") if p.is_file()}
        for out in ("out", "reference")
    )
    assert ours
    assert ours == theirs
    assert bool(list((tmp_path / "out" / "carry").glob("replay/manifest.json"))) == bool(case.block)
