"""Damaged checkpoints are set aside; damaged files of finished steps are refused, and nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import signal

import killed_runs as runs
import pytest


def flip(path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    with path.open("r+b") as file:
        file.write(data)


def halve(path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove(path) -> None:
    path.unlink()


@pytest.fixture(scope="module")
def in_training(kill_dir, material, server):
    """By method: a run that was killed when task two had its checkpoint of step 4."""
    made = {}

    def get(method):
        if method not in made:
            out = kill_dir / f"in_training_{method}"
            ended = server.run(runs.recipe(*material, out, method), "after tasks/02_two/checkpoint-4")
            assert ended.code == -signal.SIGKILL
            assert runs.whole_checkpoints(out, "two") == [2, 4]
            made[method] = out
        return made[method]

    return get


CHECKPOINT = [
    ("inclora", "adapter_model.safetensors", flip, False),
    ("seqfull", "model.safetensors", flip, True),
    ("inclora", "optimizer.pt", halve, True),
    ("inclora", "rng_state.pth", remove, True),
    ("seqfull", "trainer_state.json", remove, True),
    ("inclora", "cl_complete.json", remove, True),
    ("inclora", "cl_complete.json", halve, True),
]


@pytest.mark.parametrize(
    ("method", "name", "damage"),
    [pytest.param(*case[:3], marks=[pytest.mark.kill] if case[3] else [], id=f"{case[0]}-{case[1]}-{case[2].__name__}") for case in CHECKPOINT],
)  # fmt: skip
def test_a_damaged_checkpoint_is_set_aside(
    method, name, damage, server, material, uninterrupted, in_training, tmp_path
):
    out = runs.copy(in_training(method), tmp_path / "out")
    damage(out / "tasks/02_two/checkpoint-4" / name)
    resumed = server.run(runs.recipe(*material, out, method))
    assert resumed.code == 0, resumed.output[-3000:]
    assert "checkpoint-4 is set aside" in resumed.output
    assert [step for _, step in resumed.optimizer] == [3, 4, 5]
    assert "\n".join(runs.differences(out, uninterrupted(method).out)) == ""


@pytest.mark.kill
def test_without_any_whole_checkpoint_the_task_begins_anew(server, material, uninterrupted, in_training, tmp_path):
    out = runs.copy(in_training("inclora"), tmp_path / "out")
    flip(out / "tasks/02_two/checkpoint-4/scheduler.pt")
    shutil.rmtree(out / "tasks/02_two/checkpoint-2")
    resumed = server.run(runs.recipe(*material, out))
    assert [step for _, step in resumed.optimizer] == [1, 2, 3, 4, 5]
    assert "\n".join(runs.differences(out, uninterrupted("inclora").out)) == ""


#: File, damage, whether the file keeps its time, and whether `make test` leaves it to `make test-kill`.
FINISHED = [
    ("predictions/zero_shot/two.jsonl", flip, False, False),
    ("predictions/after_one/one.jsonl", remove, False, True),
    ("predictions/after_one/one.score.json", halve, False, False),
    ("tasks/01_one/update.safetensors", flip, False, True),
    ("tasks/01_one/update.json", remove, False, False),
    ("carry/carry.json", halve, False, True),
    ("carry/carry.json", flip, False, True),
    ("carry/updates/01_one.safetensors", flip, True, False),
    ("carry/updates/01_one.safetensors", remove, True, True),
    ("journal.jsonl", halve, False, False),
    ("run.json", halve, False, True),
    ("run.json", remove, False, False),
]


@pytest.mark.parametrize(
    ("name", "damage", "same_time"),
    [pytest.param(*case[:3], marks=[pytest.mark.kill] if case[3] else []) for case in FINISHED],
)
def test_a_damaged_file_of_a_finished_step_is_refused(
    name, damage, same_time, server, material, in_training, tmp_path
):
    out = runs.copy(in_training("inclora"), tmp_path / "out")
    stat = (out / name).stat()
    damage(out / name)
    if same_time and damage is flip:  # neither size nor time says so: a carry is hashed before it is used
        os.utime(out / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    before = runs.tree(out)
    refused = server.run(runs.recipe(*material, out))
    assert refused.code == 1
    assert f"{out / name}" in refused.output.rsplit("Error: ", 1)[-1]
    assert refused.steps == refused.optimizer == []
    assert runs.tree(out) == before


def test_a_carry_that_the_journal_does_not_explain_is_refused(server, material, in_training, tmp_path):
    out = runs.copy(in_training("inclora"), tmp_path / "out")
    for name in ("journal.jsonl", "run.json"):
        (out / name).unlink()
    refused = server.run(runs.recipe(*material, out))
    assert refused.code == 1
    assert f"{out / 'carry'}: ends with task 'one'" in refused.output
    assert refused.optimizer == []
