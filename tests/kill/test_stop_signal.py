"""SIGTERM and SIGINT: what is being written is finished, the exit code says "run again", and nothing is done twice."""

from __future__ import annotations

from collections import Counter

import killed_runs as runs
import pytest

from cl_plugins.run.interrupt import EXIT_RUN_AGAIN


IN_TRAINING = "after tasks/02_two/checkpoint-2"
IN_EVALUATION = "begin evaluate:after_two:one"
MOMENTS = [
    pytest.param("inclora", IN_TRAINING),
    pytest.param("inclora", IN_EVALUATION, marks=pytest.mark.kill),
    pytest.param("seqfull", IN_TRAINING, marks=pytest.mark.kill),
    pytest.param("seqfull", IN_EVALUATION),
    pytest.param("inclora", "begin train:one", marks=pytest.mark.kill),
    pytest.param(
        "inclora", "after tasks/02_two/checkpoint-4", marks=pytest.mark.kill
    ),  # the last step ends the task anyway
    pytest.param("inclora", "produced carry", marks=pytest.mark.kill),
    pytest.param("seqfull", "produced tasks/01_one/update.safetensors", marks=pytest.mark.kill),
]


@pytest.mark.parametrize(("method", "moment"), MOMENTS)
@pytest.mark.parametrize("signal", ["term", pytest.param("int", marks=pytest.mark.kill)])
def test_stopped_and_started_again(signal, method, moment, server, material, uninterrupted, tmp_path):
    keys, out = runs.recipe(*material, tmp_path / "out", method), tmp_path / "out"
    stopped = server.run(keys, moment, signal)
    assert stopped.code == EXIT_RUN_AGAIN == 75, stopped.output[-3000:]
    before = runs.journal(out)
    if moment == IN_TRAINING:
        assert stopped.optimizer[-1] == ("two", 3)
        assert 3 in runs.whole_checkpoints(out, "two")
    elif moment == IN_EVALUATION:
        assert stopped.steps[-1] == "evaluate:after_two:one"
        assert "evaluate:after_two:one" not in before
    else:  # what was being done is finished first
        assert stopped.steps[-1] in before or runs.whole_checkpoints(out, stopped.optimizer[-1][0])
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert "\n".join(runs.differences(out, uninterrupted(method).out)) == ""
    assert max(Counter(stopped.optimizer + resumed.optimizer).values()) == 1
    assert not set(resumed.steps) & set(before)


@pytest.mark.kill
def test_stopped_at_every_step_of_the_training(server, material, uninterrupted, tmp_path):
    keys, out, course = runs.recipe(*material, tmp_path / "out"), tmp_path / "out", []
    for _ in range(2 * runs.MAX_STEPS):
        task = "one" if "train:one" not in runs.journal(out) else "two"
        ended = server.run(keys, f"begin train:{task}", "term")
        course += ended.optimizer
        if ended.code == 0:
            break
        assert ended.code == EXIT_RUN_AGAIN
    while ended.code:
        ended = server.run(keys)
        course += ended.optimizer
    assert course == [(task, step) for task in runs.TASKS for step in range(1, runs.MAX_STEPS + 1)]
    assert "\n".join(runs.differences(out, uninterrupted("inclora").out)) == ""
