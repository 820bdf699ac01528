"""Experiment trackers see one run for the whole stream."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import tiny

from cl_plugins.host import facts


class Recorder:
    """Stands for a tracker's callback; keeps what it is told."""

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
        return [kind] if "tensorboard" in report_to else original(report_to)

    monkeypatch.setattr(transformers.integrations, "get_reporting_integration_callbacks", fake)
    monkeypatch.setattr(facts, "find_spec", lambda name: kind if name == "tensorboard" else find_spec(name))
    return kind


def test_one_run_per_stream_with_steps_counted_through_and_tasks_named(run, llava, data, tmp_path, recorder):
    out = tmp_path / "run"
    run(tiny.recipe(llava, data, out, "inclora", ("one", "two"), report_to="tensorboard", max_steps=3))
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
    assert {"score/one", "score/after_two/one", "score/after_two/two"} <= scores


def test_a_run_that_goes_on_counts_the_steps_of_before(run, llava, data, tmp_path, recorder):
    keys = tiny.recipe(llava, data, tmp_path / "run", "inclora", ("one", "two"), report_to="tensorboard", max_steps=3)
    run({**keys, "cl": {**keys["cl"], "stop_after": 4}})  # zero-shot twice, train, consolidate
    recorder.seen.clear()
    run(keys)
    steps = [step for kind, step, logs in recorder.seen if kind == "log" and "two/loss" in logs]
    assert steps == [4, 5, 6]
