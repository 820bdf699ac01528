"""Tasks without training data: tested before anything is learned and after every task, never trained."""

from __future__ import annotations

import pytest
import tiny
from running import go, load, recipe, steps

from cl_plugins.base.errors import RecipeError
from cl_plugins.evaluation.matrix import AccuracyMatrix
from cl_plugins.evaluation.metrics import continual_metrics
from cl_plugins.methods.registry import make_method
from cl_plugins.recipe import parse_cl
from cl_plugins.report.run_data import read_run
from cl_plugins.run.plan import make_plan


def stream(*without):
    made = tiny.stream(("one", "two", "three"))
    for task in made["tasks"]:
        if task["name"] in without:
            task.pop("train")
    return made


def block(*without, **more):
    return {"stream": stream(*without), "method": {"name": "seqlora"}, **more}


def test_a_task_without_training_data_is_tested_after_every_task():
    plan = [step.key for step in make_plan(parse_cl(block("one")), make_method("seqlora", {}))]
    assert plan == [
        *(f"evaluate:zero_shot:{name}" for name in ("one", "two", "three")),
        *("train:two", "consolidate:two", "evaluate:after_two:one", "evaluate:after_two:two"),
        *("train:three", "consolidate:three"),
        *(f"evaluate:after_three:{name}" for name in ("one", "two", "three")),
        "finish",
    ]
    assert parse_cl(block("one")).first_datasets == ("two_train",)


def test_a_stream_without_any_training_data_and_an_only_without_are_refused():
    with pytest.raises(RecipeError, match="none has training data"):
        parse_cl(block("one", "two", "three"))
    with pytest.raises(RecipeError, match="task 'one' has no training data"):
        parse_cl(block("one", only="one"))


def test_it_is_no_part_of_the_continual_metrics():
    columns, scores = ["two", "probe", "three"], [[80.0, 10.0, None], [60.0, 20.0, 90.0]]
    rows = ["after_two", "after_three"]
    matrix = AccuracyMatrix(
        "s", "m", columns, zero_shot=[5.0, 6.0, 7.0], scores=scores, rows=rows, test_only=["probe"]
    )
    assert AccuracyMatrix.from_json(matrix.to_json()) == matrix
    metrics = continual_metrics(matrix)
    assert (metrics["last"].value, metrics["bwt"].value, metrics["mft"].value) == (75, -20, 85)


def test_a_run_with_one(llama, text_data, tmp_path):
    keys = recipe(llama, text_data, tmp_path / "run", "seqlora", ("one", "two", "three"), cl=block("two"))
    go(keys)
    assert not any("train:two" in step for step in steps(tmp_path / "run"))
    run = read_run(tmp_path / "run")
    assert run.test_only == ("two",)
    assert run.stream_trained
    assert not run.unfinished
    assert all(cell.score is not None for cell in run.final)
    assert load(tmp_path / "run", "metrics.json")["metrics"]["last"]["value"] is not None
