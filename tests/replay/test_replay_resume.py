"""Killed at any moment and started again, a run with replay ends as if nothing had happened."""

from __future__ import annotations

import json

import marked
import pytest
from marked import manifest
from method_cases import REPLAY_CASES
from running import go, half_written


TASKS = ("one", "two")
CASES = {case.id: case for case in REPLAY_CASES if case.resume}


class Killed(BaseException):
    """Not an Exception, so that nothing catches it on the way."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return marked.build(tmp_path_factory.mktemp("texts") / "data", TASKS)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The times in the manifest are the one thing that may differ."""
    monkeypatch.setattr("cl_plugins.replay.store.now", lambda: "2030-01-01T00:00:00+00:00")


def recipe(model, data, out, case):
    method, replay = CASES[case].method["name"], CASES[case].replay
    return marked.recipe(
        model, data, out, method, TASKS, replay=replay, max_steps=4, save_strategy="steps", save_steps=2,
        lora_dropout=0.0 if method == "seqfull" else 0.1, gradient_accumulation_steps=2, per_device_train_batch_size=2,
    )  # fmt: skip


def results(out):
    names = [p for folder in ("carry", "final") for p in (out / folder).rglob("*") if p.is_file()]
    names += (out / "tasks").glob("*/*.safetensors")
    return {str(p.relative_to(out)): p.read_bytes() for p in names}


@pytest.fixture(scope="module")
def reference(llama, texts, tmp_path_factory):
    made = {}

    def of(case):
        if case not in made:
            out = tmp_path_factory.mktemp(case) / "run"
            go(recipe(llama, texts, out, case))
            made[case] = out
        return made[case]

    return of


def at_step(monkeypatch, step):
    """Kill in the middle of training the second task, once."""
    from cl_plugins.host.trainer import ContinualTrainer

    original = ContinualTrainer.training_step
    state = {"left": 1}

    def training_step(self, *args, **kwargs):
        if self._task == "two" and self.state.global_step == step and state["left"]:
            state["left"] = 0
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ContinualTrainer, "training_step", training_step)


def at_call(monkeypatch, owner, name, number=1, after=False):
    """Kill before (or after) the n-th call of a function, once."""
    original = getattr(owner, name)
    state = {"calls": 0}

    def call(*args, **kwargs):
        state["calls"] += 1
        if state["calls"] == number and not after:
            raise Killed
        value = original(*args, **kwargs)
        if state["calls"] == number:
            raise Killed
        return value

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [1, 3])
def test_killed_in_the_middle_of_a_task(case, step, llama, texts, tmp_path, reference, monkeypatch):
    """Memory batches after a checkpoint are those of the run that went through."""
    expected = reference(case)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, step)
        with pytest.raises(Killed):
            go(recipe(llama, texts, out, case))
    go(recipe(llama, texts, out, case))
    ours, theirs = results(out), results(expected)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert not half_written(out)


@pytest.mark.parametrize("moment", ["candidates", "buffer", "renamed", "tidied"])
@pytest.mark.parametrize("case", ["concatenate", "der"])
def test_killed_around_the_writing_of_the_buffer(case, moment, llama, texts, tmp_path, reference, monkeypatch):
    from cl_plugins.replay import store
    from cl_plugins.run import consolidate
    from cl_plugins.run.journal import Journal

    expected, out = reference(case), tmp_path / "run"
    places = {
        "candidates": (store, "write_candidates", 1, True),  # written, and not in the journal
        "buffer": (store, "write", 2, True),  # in the folder that is to become the carry
        "renamed": (consolidate, "write_carry", 2, True),  # in place, and not in the journal
        "tidied": (Journal, "forget", 1, False),  # candidates still there
    }
    owner, name, number, after = places[moment]
    with monkeypatch.context() as patch:
        at_call(patch, owner, name, number, after)
        with pytest.raises(Killed):
            go(recipe(llama, texts, out, case))
    go(recipe(llama, texts, out, case))
    ours, theirs = results(out), results(expected)
    assert ours.keys() == theirs.keys()
    assert [n for n in ours if ours[n] != theirs[n]] == []
    assert not list(out.glob("tasks/*/replay.json"))
    assert not list(out.glob("tasks/*/memory_*"))


@pytest.mark.parametrize("keep", ["last", "none"])
def test_keep_leaves_no_sample_beside_the_buffer(keep, llama, texts, tmp_path):
    out = tmp_path / "run"
    go(marked.recipe(llama, texts, out, "der", TASKS, replay={"capacity_per_task": 3}, cl={"keep": keep}))
    for sample in manifest(out):
        word = marked.mark(sample["task"], int(sample["id"].rsplit("-")[-1])).encode()
        assert marked.holding(out, word) == ["carry/replay/samples.jsonl"]
    assert not list(out.glob("tasks/*/memory_*"))


def test_a_task_may_be_appended(llama, tmp_path):
    data = marked.build(tmp_path / "data")
    out = tmp_path / "run"
    go(marked.recipe(llama, data, out, "seqlora", TASKS, replay={"capacity_total": 4}))
    go(marked.recipe(llama, data, out, "seqlora", (*TASKS, "three"), replay={"capacity_total": 4}))
    assert [s["task"] for s in manifest(out)] == ["one", "one", "two", "three"]
    assert json.loads((out / "journal.jsonl").read_text().splitlines()[-1])["step"] == "finish"
