from __future__ import annotations

import pytest

from cl_plugins.base.errors import RecipeError
from cl_plugins.evaluation.hf_metrics import as_evaluate_metric
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer, list_scorers


PREDICTIONS, REFERENCES = ["A", "the left lung", "B"], ["A", "A", "B"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", list_scorers())
def test_every_scorer_is_an_evaluate_metric_with_the_same_numbers(name, tmp_path):
    import evaluate

    metric = as_evaluate_metric(name, cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    references = ["0, 0, 1, 1"] * 3 if name == "box_accuracy" else REFERENCES
    got = metric.compute(predictions=PREDICTIONS, references=references, seed=3)
    items = [Item(str(n), "", p, r) for n, (p, r) in enumerate(zip(PREDICTIONS, references, strict=True))]
    score = get_scorer(name).score(items, seed=3)
    assert got == {
        name: score.score,
        "n": 3,
        "interval": list(score.interval),
        "interval_method": score.interval_method,
        "scorer": score.scorer,
        **score.extra,
    }


def test_options_prompts_and_batches(tmp_path):
    metric = as_evaluate_metric("choice_accuracy", cache_dir=str(tmp_path))
    options = [["yes", "no"]] * 2
    assert metric.compute(predictions=["no", "A"], references=["B", "B"], options=options)["choice_accuracy"] == 50
    metric.add_batch(predictions=["no"], references=["B"])
    metric.add(prediction="maybe", reference="A")
    prompts = ["Which?\nA. yes\nB. no"] * 2
    got = metric.compute(prompts=prompts)
    assert (got["choice_accuracy"], got["invalid_rate"], got["n"]) == (50, 50, 2)
    with pytest.raises(ValueError, match="one entry for each of the 2"):
        metric.compute(predictions=["A", "B"], references=["B", "B"], options=options[:1])


def test_several_processes_share_files_instead_of_memory(tmp_path):
    metric = as_evaluate_metric("exact_match", cache_dir=str(tmp_path), keep_in_memory=False)
    assert metric.compute(predictions=["a"], references=["A."])["exact_match"] == 100


def test_unknown_scorers_are_refused():
    with pytest.raises(RecipeError, match="Did you mean 'exact_match'"):
        as_evaluate_metric("exact_mach")
