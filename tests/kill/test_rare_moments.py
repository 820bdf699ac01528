"""Kills between two writes that belong together: tidying up, appending a task, moving a run aside, putting a carry back."""

from __future__ import annotations

import json
import signal

import killed_runs as runs
import pytest


def killed(server, keys, at) -> None:
    ended = server.run(keys, at)
    assert ended.code == -signal.SIGKILL, f"{at}: {ended.code}\n{ended.output[-3000:]}"


def finished(server, keys):
    ended = server.run(keys)
    assert ended.code == 0, ended.output[-3000:]
    return ended


@pytest.mark.kill
@pytest.mark.parametrize("keep", ["none", "last"])
def test_killed_while_updates_are_deleted(keep, server, material, uninterrupted, tmp_path):
    course = finished(server, runs.recipe(*material, tmp_path / "whole", cl={"keep": keep}))
    last = max(number for number, label in enumerate(course.points, start=1) if label == "after carry")
    tidying = [
        number
        for number, label in enumerate(course.points, start=1)
        if number > last and label.endswith("journal.jsonl")
    ]
    for number in tidying[:6]:  # the step's own line, and the journal without the deleted files
        keys = runs.recipe(*material, tmp_path / str(number), cl={"keep": keep})
        killed(server, keys, number)
        finished(server, keys)
        assert "\n".join(runs.differences(tmp_path / str(number), tmp_path / "whole")) == ""
    assert len(list((tmp_path / "whole/tasks").glob("*/update.safetensors"))) == {"none": 0, "last": 1}[keep]


@pytest.mark.kill
def test_killed_while_a_task_is_appended(server, material, uninterrupted, tmp_path):
    out = tmp_path / "out"
    finished(server, runs.recipe(*material, out, tasks=("one",)))
    keys = runs.recipe(*material, out)
    for at in ("before journal.jsonl", "after journal.jsonl", "before run.json", "after run.json", "between final"):
        killed(server, keys, at)
    finished(server, keys)
    assert json.loads((out / "final/MANIFEST.json").read_text())["tasks"] == ["one", "two"]
    ours, theirs = runs.results(out), runs.results(uninterrupted("inclora").out)
    assert [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)] == []


@pytest.mark.kill
@pytest.mark.parametrize("name", ["journal.jsonl", "run.json", "predictions"])
def test_killed_while_a_run_is_moved_aside(name, server, material, uninterrupted, tmp_path):
    out = runs.copy(uninterrupted("inclora").out, tmp_path / "out")
    anew = runs.recipe(*material, out, cl={"restart": True})
    killed(server, anew, f"moved {name}")
    refused = server.run(runs.recipe(*material, out, seed=8))  # half a run must not pass for one
    assert refused.code == 1
    assert refused.optimizer == []
    assert "cl.restart" in refused.output.rsplit("Error: ", 1)[-1]
    again = finished(server, anew)
    assert len(again.optimizer) == 2 * runs.MAX_STEPS
    assert "\n".join(runs.differences(out, uninterrupted("inclora").out)) == ""


@pytest.mark.kill
@pytest.mark.parametrize("method", runs.METHODS)
def test_killed_again_while_it_recovers(method, server, material, uninterrupted, tmp_path):
    keys, out = runs.recipe(*material, tmp_path / "out", method), tmp_path / "out"
    killed(server, keys, "between carry")
    killed(server, keys, "recovered carry")
    killed(server, keys, "between carry")
    killed(server, keys, "before run.json")
    killed(server, keys, "after carry")
    finished(server, keys)
    assert "\n".join(runs.differences(out, uninterrupted(method).out)) == ""


@pytest.mark.kill
def test_the_last_checkpoint_is_deleted_only_when_the_next_one_is_whole(server, material, uninterrupted, tmp_path):
    keys, out = runs.recipe(*material, tmp_path / "out", save_total_limit=1), tmp_path / "out"
    killed(server, keys, "before tasks/02_two/checkpoint-4/cl_complete.json")
    assert runs.whole_checkpoints(out, "two") == [2]
    resumed = server.run(keys, "after tasks/02_two/checkpoint-4")
    assert [step for _, step in resumed.optimizer] == [3, 4]
    assert runs.whole_checkpoints(out, "two") == [4]
    finished(server, keys)
    assert "\n".join(runs.differences(out, uninterrupted("inclora").out)) == ""
