"""Experiment trackers see one run for the whole stream, with every loss, every cell, the metrics and the pictures."""

from __future__ import annotations

import os
import sys
from collections import Counter
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import tiny
from launch import launch
from method_cases import slow_unless
from running import go
from tracked_runs import CELLS, FAKES, TRACKERS, one_run_with_everything

from cl_plugins.base.errors import RunStateError
from cl_plugins.host import facts
from cl_plugins.records.run import write_run
from cl_plugins.run.journal import Journal
from cl_plugins.run.trackers import StreamTracker


def recipe(llama, text_data, out, tracker, **more):
    keys = {"report_to": tracker, "max_steps": 3, **more}
    return tiny.recipe(llama, text_data, out, "inclora", ("one", "two"), text_only=True, **keys)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_one_run_has_everything_in_its_place(run, llama, text_data, tmp_path, tracked, tracker):
    out = tmp_path / "stream"
    run(recipe(llama, text_data, out, tracker))
    one_run_with_everything(tracked, tracker, out)
    assert not list(out.glob("**/swanlab_public_config.json"))


@pytest.mark.parametrize("tracker", slow_unless(TRACKERS, ("tensorboard", "wandb")))
def test_a_process_for_every_step_goes_on_with_that_run(llama, text_data, tmp_path, tracked, tracker):
    """As `cl-plugins run --isolate` and a scheduler that restarts a job do."""
    keys = recipe(llama, text_data, tmp_path / "stream", tracker)
    keys["cl"]["stop_after"] = 1
    for _ in range(20):
        sys.modules.pop(tracker, None)  # a module that has forgotten its run
        go(keys)
        if '"finish"' in (tmp_path / "stream" / "journal.jsonl").read_text():
            break
    assert len(tracked("init")) > 5
    assert len({line["id"] for line in tracked("init")}) == 1
    once_each(tracked)
    places = {(name, step) for name, step, _ in tracked.points()}
    assert {f"score/{cell}" for cell in CELLS} <= {name for name, _ in places}
    assert {("one/loss", 1), ("two/loss", 6), ("metrics/last", 6)} <= places


def test_a_task_that_goes_on_says_from_where(llama, text_data, tmp_path, tracked):
    from test_validation import StopAt

    keys = recipe(llama, text_data, tmp_path / "stream", "tensorboard", max_steps=6)
    with pytest.raises(SystemExit):
        go(keys, [StopAt(4)])
    sys.modules.pop("tracked")
    go(keys)
    assert [step for name, step, _ in tracked.points() if name == "two/loss"] == list(range(7, 13))
    assert [line["purge_step"] for line in tracked("init")] == [None, 1, 7, None, 11]


def test_what_a_tracker_missed_is_sent_by_the_next_start(llama, text_data, tmp_path, tracked, monkeypatch, caplog):
    keys = recipe(llama, text_data, tmp_path / "stream", "trackio")
    go({**keys, "cl": {**keys["cl"], "stop_after": 3}})
    assert set(tracked.values("score/")) == {"score/zero_shot/one", "score/zero_shot/two", "score/one", "score/two"}
    monkeypatch.setenv("TRACKED_FAILS", "log")
    go(keys)
    assert "the tracker 'trackio' failed (ConnectionError: no network)" in caplog.text
    assert (tmp_path / "stream" / "final").is_dir()  # the run is not lost
    monkeypatch.delenv("TRACKED_FAILS")
    go(keys)  # nothing is left to do
    assert {f"score/{cell}" for cell in CELLS} <= set(tracked.values("score/"))
    assert tracked.values("score/")["score/after_one/one"][0] == 3
    assert "metrics/last" in tracked.values("metrics/")
    before = len(tracked())
    go(keys)
    assert len(tracked()) == before  # nothing was left to send either: it is not even opened


def test_what_a_killed_process_has_sent_is_not_sent_again(tmp_path, tracked):
    cl = {"method": {"name": "seqlora"}}
    write_run(tmp_path, {"recipe": {"cl": cl}, "stream": {"name": "s", "tasks": []}, "method": "seqlora"})
    journal = Journal(tmp_path)
    journal.finish("evaluate:zero_shot:one", 0.1, {}, score=50.0)
    killed = StreamTracker({"trackio": {}}, SimpleNamespace(), tmp_path)
    killed.cells(journal.entries)  # and is never closed
    note = tmp_path / ".trackers_sent.jsonl"
    note.write_text(note.read_text() + '["trackio", "eval')
    journal.finish("evaluate:zero_shot:two", 0.1, {}, score=25.0)
    sys.modules.pop("trackio")
    for _ in range(2):
        tracker = StreamTracker({"trackio": {}}, SimpleNamespace(), tmp_path)
        tracker.cells(journal.entries)
        tracker.cells(journal.entries)
        tracker.close()
        assert not note.exists()
    once_each(tracked)
    assert set(tracked.values("score/zero_shot/")) == {"score/zero_shot/one", "score/zero_shot/two"}
    assert len({line["id"] for line in tracked("init")}) == 1


def test_a_tracker_that_is_named_later_gets_all_cells(llama, text_data, tmp_path, tracked):
    keys = recipe(llama, text_data, tmp_path / "stream", "none")
    go({**keys, "cl": {**keys["cl"], "stop_after": 5}})
    go({**keys, "report_to": "wandb", "run_name": "mine"})
    assert {f"score/{cell}" for cell in CELLS} <= set(tracked.values("score/"))
    assert [(line["project"], line["name"]) for line in tracked("init")] == [
        ("llamafactory", "mine")
    ]  # the host names the project


def test_one_that_cannot_be_opened_is_an_error_before_the_work(llama, text_data, tmp_path, tracked, monkeypatch):
    monkeypatch.setenv("TRACKED_FAILS", "init")
    with pytest.raises(RunStateError, match=r"'mlflow' cannot be opened.*no network") as caught:
        go(recipe(llama, text_data, tmp_path / "stream", "mlflow"))
    assert "report_to: none" in caught.value.problems[0].fix
    assert not (tmp_path / "stream" / "journal.jsonl").exists()


def test_a_damaged_note_begins_a_new_run(llama, text_data, tmp_path, tracked):
    keys = recipe(llama, text_data, tmp_path / "stream", "wandb")
    go({**keys, "cl": {**keys["cl"], "stop_after": 1}})
    (tmp_path / "stream" / ".trackers.json").write_text('{"wandb": 3')
    go({**keys, "cl": {**keys["cl"], "stop_after": 1}})
    assert len({line["id"] for line in tracked("init")}) == 2
    assert [name for name, _, _ in tracked.points()].count("score/zero_shot/one") == 2


@pytest.mark.parametrize(("mode", "resumes"), [("cloud", True), ("local", False)])
def test_swanlab_by_the_hosts_own_keys(llama, text_data, tmp_path, tracked, mode, resumes):
    own = {"swanlab_project": "p", "swanlab_workspace": "w", "swanlab_run_name": "r", "swanlab_mode": mode}
    own |= {"swanlab_api_key": "sk-1234567890", "swanlab_logdir": str(tmp_path / "logs")}
    keys = recipe(llama, text_data, tmp_path / "stream", "none", use_swanlab=True, **own)
    go(keys)
    (opened,) = tracked("init")
    assert (opened["project"], opened["workspace"], opened["name"], opened["mode"]) == ("p", "w", "r", mode)
    assert (opened["resume"] == "allow") is (opened["id"] is not None) is resumes
    assert [line["api_key"] for line in tracked("login")] == ["sk-1234567890"]
    assert {"one/loss", "two/loss"} <= {name for name, _, _ in tracked.points()}
    for file in ("run.json", ".trackers.json"):
        assert "sk-1234567890" not in (tmp_path / "stream" / file).read_text()


def test_the_phases_of_a_task_do_not_share_a_name(llava, data, tmp_path, tracked):
    from method_cases import case_of

    case = case_of("mr_lora")
    block = {**case.block, "eval": {"scope": "none"}}
    go(tiny.recipe(llava, data, tmp_path / "run", case.method, ("one", "two"), report_to="trackio", cl=block))
    losses = {name for name, _, _ in tracked.points() if name.endswith("/loss")}
    assert losses == {"one/loss", "two/loss", "two/router/loss"}


@pytest.mark.slow
def test_two_processes_are_one_run(llama, text_data, tmp_path, tracked, monkeypatch):
    """Rank 0 alone tells the trackers, and tells them every loss, every cell and every metric once."""
    monkeypatch.setenv("PYTHONPATH", f"{FAKES}:{os.environ.get('PYTHONPATH', '')}")
    out = tmp_path / "stream"
    launch(recipe(llama, text_data, out, "wandb"), tmp_path)
    assert len({line["pid"] for line in tracked()}) == 1
    one_run_with_everything(tracked, "wandb", out)
    once_each(tracked)


def once_each(tracked):
    """Nothing was sent twice."""
    counts = Counter((name, step) for name, step, _ in tracked.points() if not name.endswith("/epoch"))
    assert set(counts.values()) == {1}


def test_tensorboard_itself_reads_one_run(llama, text_data, tmp_path, monkeypatch):
    """Killed in the middle of a task and started again; the points after the checkpoint are there once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from test_validation import StopAt

    out = tmp_path / "stream"
    keys = recipe(llama, text_data, out, "tensorboard", max_steps=6)
    with pytest.raises(SystemExit):
        go(keys, [StopAt(4)])
    go(keys)
    assert [path.name for path in out.rglob("*tfevents*")] == [path.name for path in (out / "tensorboard").iterdir()]
    found = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in found.Scalars("two/loss")] == list(range(7, 13))
    assert {f"score/{cell}" for cell in CELLS} <= set(found.Tags()["scalars"])


class Recorder:
    """Stands for another tracker's callback of Transformers; keeps what it is told."""

    seen: list  # set per test

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen.append(("begin", state.global_step, args.output_dir))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(("log", state.global_step, dict(logs)))

    def on_train_end(self, args, state, control, **kwargs):
        self.seen.append(("end", state.global_step, None))


@pytest.fixture
def recorder(monkeypatch):
    import transformers.integrations

    kind = type("OwnRecorder", (Recorder,), {"seen": []})
    original = transformers.integrations.get_reporting_integration_callbacks

    def fake(report_to):
        return [kind] if "dvclive" in report_to else original(report_to)

    monkeypatch.setattr(transformers.integrations, "get_reporting_integration_callbacks", fake)
    monkeypatch.setattr(facts, "find_spec", lambda name: kind if name == "dvclive" else find_spec(name))
    return kind


def test_any_other_tracker_sees_one_training_with_steps_counted_through(run, llava, data, tmp_path, recorder):
    out = tmp_path / "run"
    run(tiny.recipe(llava, data, out, "inclora", ("one", "two"), report_to="dvclive", max_steps=3))
    kinds = [kind for kind, _, _ in recorder.seen]
    assert kinds.count("begin") == 1
    assert kinds.count("end") == 1
    assert kinds[-1] == "end"
    assert recorder.seen[0][2] == str(out)
    losses = {
        name: step for kind, step, logs in recorder.seen if kind == "log" for name in logs if name.endswith("/loss")
    }
    assert losses == {"one/loss": 3, "two/loss": 6}
    scores = {name for kind, _, logs in recorder.seen if kind == "log" for name in logs if name.startswith("score/")}
    assert {f"score/{cell}" for cell in CELLS} <= scores


def test_a_run_that_goes_on_counts_the_steps_of_before(run, llava, data, tmp_path, recorder):
    keys = tiny.recipe(llava, data, tmp_path / "run", "inclora", ("one", "two"), report_to="dvclive", max_steps=3)
    run({**keys, "cl": {**keys["cl"], "stop_after": 4}})  # zero-shot twice, train, consolidate
    recorder.seen.clear()
    run(keys)
    steps = [step for kind, step, logs in recorder.seen if kind == "log" and "two/loss" in logs]
    assert steps == [4, 5, 6]
