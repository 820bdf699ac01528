"""Killed in the middle of a test set: what was answered is not answered again, and the predictions are the same bytes."""

from __future__ import annotations

import signal

import killed_runs as runs
import pytest
import tiny
from launch import launch

from cl_plugins.run.interrupt import EXIT_RUN_AGAIN


ITEMS, BATCH = 13, 2
BATCHES = -(-ITEMS // BATCH)
PARTS = "predictions/{}/one.parts/rank0.jsonl"


@pytest.fixture(scope="module")
def many(kill_dir, material):
    """The model of the other tests, and one task with a test set of seven batches."""
    return material[0], tiny.build_data(kill_dir / "many", tasks=("one",), train=12, test=ITEMS)


def recipe(many, out, **more):
    settings = {"max_steps": 2, "save_steps": 2, "per_device_eval_batch_size": BATCH, **more}
    return runs.recipe(*many, out, tasks=("one",), **settings)


@pytest.fixture(scope="module")
def undisturbed(many, kill_dir, server):
    ended = server.run(recipe(many, kill_dir / "undisturbed"))
    assert ended.code == 0, ended.output[-3000:]
    return kill_dir / "undisturbed", ended


def number_of(points, label, nth):
    """Number of the point that is the nth with this label."""
    return [i for i, point in enumerate(points, start=1) if point == label][nth - 1]


def added(ended, row="zero_shot"):
    """How many lines a run added to the answers of a row, the first one of the file included."""
    return ended.points.count(f"after line {PARTS.format(row)}")


def test_every_batch_is_written_and_nothing_is_left_behind(undisturbed):
    out, ended = undisturbed
    assert added(ended) == added(ended, "after_one") == BATCHES + 1
    assert not list(out.rglob("*.parts"))


@pytest.mark.parametrize(
    ("row", "moment", "nth", "lines"),
    [
        ("zero_shot", "torn line", 4, BATCHES - 2),  # two of the batches are there
        pytest.param("zero_shot", "after line", 4, BATCHES - 3, marks=pytest.mark.kill),
        pytest.param("zero_shot", "before line", 1, BATCHES + 1, marks=pytest.mark.kill),
        pytest.param("zero_shot", "torn line", 1, BATCHES + 1, marks=pytest.mark.kill),
        pytest.param("zero_shot", "after line", 1, BATCHES, marks=pytest.mark.kill),
        pytest.param("zero_shot", "before line", 2, BATCHES, marks=pytest.mark.kill),
        pytest.param("zero_shot", "after line", BATCHES + 1, 0, marks=pytest.mark.kill),
        pytest.param("after_one", "torn line", BATCHES + 1, 1, marks=pytest.mark.kill),
        pytest.param("after_one", "after line", 2, BATCHES - 1, marks=pytest.mark.kill),
    ],
)
def test_killed_and_started_again(row, moment, nth, lines, many, undisturbed, server, tmp_path):
    out, ended = undisturbed
    keys = recipe(many, tmp_path / "out")
    killed = server.run(keys, number_of(ended.points, f"{moment} {PARTS.format(row)}", nth))
    assert killed.code == -signal.SIGKILL, killed.output[-3000:]
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert added(resumed, row) == lines
    assert "\n".join(runs.differences(tmp_path / "out", out)) == ""


@pytest.mark.kill
@pytest.mark.parametrize("moment", ["before predictions", "produced predictions", "after predictions"])
def test_killed_when_all_is_answered(moment, many, undisturbed, server, tmp_path):
    keys = recipe(many, tmp_path / "out")
    for name in ("zero_shot/one.jsonl", "zero_shot/one.score.json"):
        killed = server.run(keys, f"{moment}/{name}")
        assert killed.code == -signal.SIGKILL
    for at in ("before journal.jsonl", "produced journal.jsonl", "after journal.jsonl"):
        assert server.run(keys, at).code == -signal.SIGKILL
    resumed = server.run(keys)
    assert added(resumed) == 0
    assert "\n".join(runs.differences(tmp_path / "out", undisturbed[0])) == ""


@pytest.mark.kill
def test_killed_at_every_batch_in_one_chain(many, undisturbed, server, tmp_path):
    keys, label = recipe(many, tmp_path / "out"), f"after line {PARTS.format('zero_shot')}"
    for done in range(3):
        killed = server.run(keys, label)
        assert killed.code == -signal.SIGKILL
        lines = (tmp_path / "out" / PARTS.format("zero_shot")).read_text().splitlines()
        assert len(lines) == done + 1
    resumed = server.run(keys)
    assert added(resumed) == BATCHES + 1 - 3
    assert "\n".join(runs.differences(tmp_path / "out", undisturbed[0])) == ""


def test_stopped_politely(many, undisturbed, server, tmp_path):
    keys, out = recipe(many, tmp_path / "out"), tmp_path / "out"
    at = number_of(undisturbed[1].points, f"before line {PARTS.format('zero_shot')}", 3)
    stopped = server.run(keys, at, "term")
    assert stopped.code == EXIT_RUN_AGAIN
    assert len((out / PARTS.format("zero_shot")).read_text().splitlines()) == 3  # the batch at hand was finished
    resumed = server.run(keys)
    assert added(resumed) == BATCHES - 2
    assert "resuming after 4 of 13 items" in resumed.output
    assert "\n".join(runs.differences(out, undisturbed[0])) == ""


@pytest.mark.parametrize(
    "change",
    [{"cl": {"eval": {"max_new_tokens": 2}}}, pytest.param({"per_device_eval_batch_size": 3}, marks=pytest.mark.kill)],
)
def test_other_settings_make_the_answers_void(change, many, undisturbed, server, tmp_path):
    """Before any step is finished a recipe may be changed; what was answered under the old one must not be used."""
    at = number_of(undisturbed[1].points, f"after line {PARTS.format('zero_shot')}", 4)
    assert server.run(recipe(many, tmp_path / "out"), at).code == -signal.SIGKILL
    changed = recipe(many, tmp_path / "out", **change)
    resumed = server.run(changed)
    assert resumed.code == 0, resumed.output[-3000:]
    assert added(resumed) == 1 + -(-ITEMS // changed["per_device_eval_batch_size"])
    fresh = server.run(recipe(many, tmp_path / "fresh", **change))
    assert fresh.code == 0
    assert "\n".join(runs.differences(tmp_path / "out", tmp_path / "fresh")) == ""


@pytest.mark.kill
def test_answers_for_another_model_are_void(many, undisturbed, server, tmp_path):
    """Answers that lie in the place of those after training, but were given by the base."""
    at = number_of(undisturbed[1].points, f"after line {PARTS.format('zero_shot')}", 4)
    keys, out = recipe(many, tmp_path / "out"), tmp_path / "out"
    assert server.run(keys, at).code == -signal.SIGKILL
    wrong = out / PARTS.format("after_one")
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes((out / PARTS.format("zero_shot")).read_bytes())
    resumed = server.run(keys)
    assert added(resumed, "after_one") == BATCHES + 1
    assert "\n".join(runs.differences(out, undisturbed[0])) == ""


@pytest.mark.kill
def test_going_on_with_another_number_of_ranks(many, undisturbed, server, tmp_path):
    keys, out = recipe(many, tmp_path / "out", cl={"stop_after": 1}), tmp_path / "out"
    at = number_of(undisturbed[1].points, f"torn line {PARTS.format('zero_shot')}", 4)
    assert server.run(keys, at).code == -signal.SIGKILL
    assert "resuming after 4 of 13 items" in launch(keys, tmp_path, processes=2).stdout
    name = "predictions/zero_shot/one.jsonl"
    assert (out / name).read_bytes() == (undisturbed[0] / name).read_bytes()
    assert not list(out.rglob("*.parts"))


@pytest.mark.kill
def test_two_ranks_killed_and_one_goes_on(many, undisturbed, server, tmp_path):
    """What two ranks have answered is used by one: the parts of a run of two are put together here from one of one."""
    at = number_of(undisturbed[1].points, f"after line {PARTS.format('zero_shot')}", 6)
    keys, out = recipe(many, tmp_path / "out"), tmp_path / "out"
    assert server.run(keys, at).code == -signal.SIGKILL
    first = out / PARTS.format("zero_shot")
    head, *lines = first.read_text().splitlines(keepends=True)
    first.write_text(head + "".join(lines[::2]) + lines[1][:9])
    first.with_name("rank1.jsonl").write_text(head + lines[1] + lines[3][:-1])
    resumed = server.run(keys)
    assert added(resumed) == BATCHES - 4
    assert "\n".join(runs.differences(out, undisturbed[0])) == ""


@pytest.mark.kill
def test_killed_inside_a_probe(many, server, tmp_path):
    """A probe of seven batches is killed inside its answers, after them, and before its line in the journal."""
    probe = {"name": "general", "test": "one_test", "scorer": "choice_accuracy", "options_column": "options"}
    block = {"eval": {"max_new_tokens": 3, "probes": [probe]}}
    whole = server.run(recipe(many, tmp_path / "whole", cl=block))
    assert whole.code == 0, whole.output[-3000:]
    parts, out = "probes/{}/general.parts/rank0.jsonl", tmp_path / "out"
    keys = recipe(many, out, cl=block)
    for label in (
        f"torn line {parts.format('zero_shot')}",
        f"after line {parts.format('zero_shot')}",
        "after probes/zero_shot/general.jsonl",
        f"after line {parts.format('after_one')}",
        "produced probes/after_one/general.score.json",
    ):
        killed = server.run(keys, label)
        assert killed.code == -signal.SIGKILL, f"{label}: {killed.code}\n{killed.output[-3000:]}"
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert resumed.points.count(f"after line {parts.format('after_one')}") == 0  # all was answered by then
    assert "\n".join(runs.differences(out, tmp_path / "whole")) == ""
