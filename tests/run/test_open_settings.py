"""What concerns tests alone may change for what is not measured yet; what is measured may not."""

from __future__ import annotations

import json

import pytest
from running import go, journal, load, recipe, steps

from cl_plugins.base.errors import RunStateError
from cl_plugins.run.open_settings import measured_tasks


def test_measured_tasks():
    done = ["evaluate:zero_shot:one", "train:one", "consolidate:one", "evaluate:after_one:two", "finish"]
    assert measured_tasks(done) == {"one", "two"}


@pytest.fixture(scope="module")
def stopped(llama, text_data, tmp_path_factory):
    """A recipe whose first task is trained and tested; the second one is neither."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    keys = recipe(llama, text_data, out, "seqlora", cl={"eval": {"zero_shot": False}})
    go({**keys, "cl": {**keys["cl"], "stop_after": 3}})
    assert steps(out) == ["train:one", "consolidate:one", "evaluate:after_one:one"]
    return keys


@pytest.fixture
def begun(stopped, tmp_path):
    """A copy of it, with its recipe."""
    import shutil
    from pathlib import Path

    out = shutil.copytree(Path(stopped["output_dir"]), tmp_path / "run")
    return {**json.loads(json.dumps(stopped)), "output_dir": str(out)}


def go_on(keys, **changes):
    go({**keys, **changes, "cl": {**keys["cl"], "stop_after": 2}})


def of_task(keys, number, **changes):
    keys["cl"]["stream"]["tasks"][number].update(changes)
    return keys


@pytest.mark.parametrize(
    "changes", [{"scorer": "exact_match"}, {"max_new_tokens": 2}, {"options_column": None, "scorer": "contains"}]
)
def test_a_task_that_is_not_measured_yet(begun, changes):
    go_on(of_task(begun, 1, **changes))
    assert steps(begun["output_dir"])[-1] == "consolidate:two"
    (task,) = [t for t in load(begun["output_dir"], "run.json")["stream"]["tasks"] if t["name"] == "two"]
    assert changes.items() <= task.items()


@pytest.mark.parametrize("changes", [{"scorer": "exact_match"}, {"max_new_tokens": 2}, {"options_column": None}])
def test_a_task_that_is_measured(begun, changes):
    with pytest.raises(RunStateError, match="another recipe"):
        go_on(of_task(begun, 0, **changes))


def test_the_common_length_counts_for_measured_tasks_only(begun):
    begun["cl"]["eval"]["max_new_tokens"] = 2
    with pytest.raises(RunStateError, match="another recipe"):
        go_on(begun)
    go_on(of_task(begun, 0, max_new_tokens=3))  # what it was measured with


def test_a_smaller_batch_after_running_out_of_memory(begun, caplog):
    caplog.set_level("WARNING", "cl_plugins")
    go_on(begun, per_device_eval_batch_size=2)
    assert "cells that are measured keep their answers" in caplog.text


def test_the_number_of_items_is_that_of_measured_cells(begun):
    begun["cl"]["eval"]["max_items"] = 2
    with pytest.raises(RunStateError, match="another recipe"):
        go_on(begun)


def test_everything_may_change_before_the_first_test(llama, text_data, tmp_path):
    out = tmp_path / "run"
    keys = recipe(llama, text_data, out, "seqlora", cl={"eval": {"zero_shot": False}})
    go({**keys, "cl": {**keys["cl"], "stop_after": 2}})
    keys["cl"]["eval"] |= {"max_items": 2, "max_new_tokens": 1}
    go({**keys, "cl": {**keys["cl"], "stop_after": 1}})
    assert journal(out)[-1]["details"]["n"] == 2


def test_a_change_of_tests_leaves_a_trainings_checkpoints(llama, text_data, tmp_path, monkeypatch):
    """After a failed training its keys may change, which throws its checkpoints away; a scorer does not."""
    from transformers import TrainerCallback

    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise RuntimeError("out of memory")

    out = tmp_path / "run"
    keys = recipe(
        llama,
        text_data,
        out,
        "seqlora",
        max_steps=3,
        save_strategy="steps",
        save_steps=1,
        cl={"eval": {"zero_shot": False}},
    )
    with pytest.raises(RuntimeError):
        go(keys, callbacks=[Fail()])
    assert (out / "tasks" / "01_one" / "checkpoint-1").is_dir()
    seen = []

    class First(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    of_task(keys, 0, scorer="contains", options_column=None)
    go({**keys, "cl": {**keys["cl"], "stop_after": 1}}, callbacks=[First()])
    assert seen == [1]
