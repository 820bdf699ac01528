"""Methods with terms or a buffer are killed where their files are written and read: they go on to the very same end."""

from __future__ import annotations

import signal

import killed_runs as runs
import pytest
from method_cases import CASES


EVERY = [
    pytest.param(case, id=case.id, marks=() if case.kill.always else pytest.mark.kill) for case in CASES if case.kill
]


@pytest.mark.parametrize("case", EVERY)
def test_killed_again_and_again(case, server, material, tmp_path):
    method, written = case.given(case.kill.options), case.kill.file

    def recipe(out):
        return runs.recipe(*material, tmp_path / out, method, lora_dropout=0.1, cl=dict(case.block))

    assert server.run(recipe("reference")).code == 0
    keys = recipe("out")
    for label in (
        f"produced tasks/01_one/{written}",
        "after carry",
        "after tasks/02_two/checkpoint-2",
        f"before tasks/02_two/{written}",
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
