"""Runs with `encoders:` are killed at chosen points, at every kind of point and at random moments: the end is the very same."""

from __future__ import annotations

import random
import signal

import encoder_runs
import killed_runs as runs
import pytest
from test_kill_points import chain, kill_and_go_on


REPLAY = {"replay": encoder_runs.REPLAY}
METHODS = {
    "crossmodal": ({"name": "crossmodal", "freeze": "samples", "threshold": 0.5}, REPLAY, "usage.safetensors"),
    "replay": ({"name": "seqfull"}, REPLAY, "replay.json"),
    "ewc": ({"name": "ewc", "weight": 10.0, "fisher_samples": 6}, {}, "fisher.safetensors"),
    "lwf": ({"name": "lwf"}, {}, "update.safetensors"),
    "der": ({"name": "der"}, REPLAY, "memory_logits.safetensors"),
}


def recipe(data, out, name):
    """Checkpoints at steps 2, 4 and 5; with three batches in an epoch of step one and two in one of step two."""
    method, block, _ = METHODS[name]
    overrides = {"two": {"per_device_train_batch_size": 6, "lr_scheduler_type": "constant"}}
    cl = {"replay": {}, "eval": {}, "task_overrides": overrides, **block}
    more = {"save_steps": runs.SAVE_STEPS, "max_steps": runs.MAX_STEPS}
    return encoder_runs.recipe(data, out, dict(method), cl=cl, **more)


@pytest.fixture(scope="module")
def data(kill_dir):
    (kill_dir / "records").mkdir()
    return encoder_runs.build(kill_dir / "records", train=12, test=4)


@pytest.fixture(scope="module")
def undisturbed(kill_dir, data, server):
    """By method: directory and course of a run that nobody disturbs; each is made once."""
    made = {}

    def get(name):
        if name not in made:
            out = kill_dir / f"encoders_{name}"
            ended = server.run(recipe(data, out, name))
            assert ended.code == 0, ended.output[-4000:]
            assert [step for task, step in ended.optimizer if task == "two"] == list(range(1, runs.MAX_STEPS + 1))
            made[name] = Undisturbed(out, ended)
        return made[name]

    return get


class Undisturbed:
    """A run and its course."""

    def __init__(self, out, ended):
        self.out, self.ended = out, ended


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "crossmodal" else pytest.mark.kill) for n in METHODS]
)
def test_killed_again_and_again_at_chosen_points(name, server, data, undisturbed, tmp_path):
    written = METHODS[name][2]
    labels = [
        "produced predictions/zero_shot/two.jsonl",
        "written tasks/01_one/checkpoint-4/trained.safetensors",
        "after tasks/01_one/checkpoint-5",
        f"produced tasks/01_one/{written}",
        "after carry",
        "before tasks/02_two/checkpoint-4/cl_complete.json",
        f"before tasks/02_two/{written}",
        "between carry",
        "after predictions/after_two/one.jsonl",
        "produced final",
        "produced report.html",
    ]
    chain(server, recipe(data, tmp_path / "out", name), undisturbed(name), labels)


@pytest.mark.kill
@pytest.mark.parametrize("name", ["crossmodal"])
def test_killed_at_every_kind_of_point(name, server, data, undisturbed, tmp_path):
    reference = undisturbed(name)
    last = {runs.kind(label): number for number, label in enumerate(reference.ended.points, start=1)}
    wrong = []
    for number in sorted(last.values()):
        wrong += kill_and_go_on(server, recipe(data, tmp_path / str(number), name), number, reference)
    assert wrong == []


@pytest.mark.kill
@pytest.mark.parametrize("name", ["crossmodal"])
def test_killed_at_random_moments(name, server, data, undisturbed, tmp_path):
    reference = undisturbed(name)
    lines = len(reference.ended.points) + len(reference.ended.optimizer) + len(reference.ended.steps)
    dice, hits = random.Random(21), 0
    for number in range(60):  # a run may be over before the signal reaches it
        keys = recipe(data, tmp_path / str(number), name)
        started = server.start(keys)
        server.until(started, dice.randrange(lines // 20, lines - lines // 20))
        server.kill(started[0])
        killed = server.wait(started)
        if killed.code == 0:
            continue
        assert killed.code == -signal.SIGKILL, killed.output[-3000:]
        before = runs.journal(tmp_path / str(number))
        resumed = server.run(keys)
        assert resumed.code == 0, resumed.output[-3000:]
        assert runs.differences(tmp_path / str(number), reference.out) == []
        assert runs.done_twice(before, killed, resumed, tmp_path / str(number)) == []
        hits += 1
        if hits == 6:
            break
    assert hits == 6
