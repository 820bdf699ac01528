"""Test sets that one model answers are answered behind each other: a model is rebuilt once per row and route."""

from __future__ import annotations

import pytest
import tiny
from running import go, load, predictions, recipe, steps

from cl_plugins.methods.mslora_cr import MSLoRACR
from cl_plugins.run.plan import Step
from cl_plugins.run.state import RunState


ROW = "after_two"


def made(llama, text_data, out, **evaluation):
    """`spare` stands first and is only tested: it is answered by the model of the latest task, and so is the probe."""
    stream = tiny.stream(("three", "one", "two"))
    stream["tasks"][0] = {**stream["tasks"][0], "name": "spare"}
    stream["tasks"][0].pop("train")
    probe = {"name": "general", "test": "three_test", "scorer": "exact_match", "max_new_tokens": 2}
    block = {"stream": stream, "eval": {"zero_shot": False, "probes": [probe], **evaluation}}
    method = {"name": "mslora_cr", "alpha": 0.0}
    return recipe(llama, text_data, out, method, cl=block)


@pytest.fixture
def restored(monkeypatch):
    """The routes of the models that were built."""
    found, restore = [], MSLoRACR.restore

    def note(self, base, carry, route=None):
        found.append(route if carry is not None else "base")
        return restore(self, base, carry, route)

    monkeypatch.setattr(MSLoRACR, "restore", note)
    return found


def test_a_model_is_restored_once_per_route_and_the_answers_are_the_same(
    llama, text_data, tmp_path, restored, monkeypatch
):
    go(made(llama, text_data, tmp_path / "grouped"))
    assert restored == ["base", None, 1, None]  # two trainings, of which the second starts from what answered last
    cells = [step for step in steps(tmp_path / "grouped") if ROW in step]
    assert cells == [f"evaluate:{ROW}:one", f"evaluate:{ROW}:spare", f"evaluate:{ROW}:two", f"probe:{ROW}:general"]

    restored.clear()
    monkeypatch.setattr(RunState, "by_route", lambda self, steps: list(steps))
    go(made(llama, text_data, tmp_path / "in_order"))
    assert restored == ["base", None, None, 1, None]
    cells = [step for step in steps(tmp_path / "in_order") if step.startswith(f"evaluate:{ROW}")]
    assert cells == [f"evaluate:{ROW}:{name}" for name in ("spare", "one", "two")]

    assert predictions(tmp_path / "grouped") == predictions(tmp_path / "in_order")
    assert load(tmp_path / "grouped", "matrix.json") == load(tmp_path / "in_order", "matrix.json")


def test_a_run_that_was_stopped_inside_a_row_goes_on_with_the_rest(llama, text_data, tmp_path, restored):
    keys = made(llama, text_data, tmp_path / "run")
    whole = made(llama, text_data, tmp_path / "whole")
    go(whole)
    keys["cl"]["stop_after"] = steps(tmp_path / "whole").index(f"evaluate:{ROW}:spare") + 1
    go(keys)
    assert steps(tmp_path / "run")[-1] == f"evaluate:{ROW}:spare"
    del keys["cl"]["stop_after"]
    restored.clear()
    go(keys)
    assert restored == [None]
    assert steps(tmp_path / "run") == steps(tmp_path / "whole")
    assert predictions(tmp_path / "run") == predictions(tmp_path / "whole")


class Method:
    """Answers the questions of a task by the route with its first letter."""

    def __init__(self, answers):
        self.answers = answers

    def route(self, carry, task):
        return None if carry is None or task[0] == "n" else task[0]


class Carry:
    tasks = ("a",)


def order(names, *, answers="by_task", carry=Carry, row=ROW):
    state = RunState.__new__(RunState)
    state.method, state.carry = Method(answers), carry() if carry is not None else None
    state.config = type("Config", (), {"probe": lambda self, name: None})()
    return [str(step.task) for step in state.by_route([Step("evaluate", name, row) for name in names])]


def test_the_order_is_that_of_the_tasks_within_a_route():
    assert order(["a1", "n1", "b1", "a2", "n2", "b2"]) == ["a1", "a2", "b1", "b2", "n1", "n2"]
    assert order(["n1", "a1"], answers="by_sample") == ["n1", "a1"]
    assert order(["n1", "a1"], carry=None) == ["n1", "a1"]
    assert order(["n1", "a1"], row="zero_shot") == ["n1", "a1"]
