"""The scorers as plain functions: one for each strict scorer, with its numbers."""

from __future__ import annotations

import inspect

import pytest

from cl_plugins.base.errors import DataError, RecipeError
from cl_plugins.evaluation import functions
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer, list_scorers


PREDICTIONS = {"list_f1": ["Ohio, Texas", "Iowa", "a and b"], "box_accuracy": ["0, 0, 1, 1", "none", "0, 0, 1, 0.4"]}
REFERENCES = {"list_f1": ["Texas and Ohio", "Iowa, Utah", "c"], "box_accuracy": ["0, 0, 1, 1"] * 3}


def test_every_strict_scorer_has_one():
    assert {*functions.__all__} - {"score"} == set(list_scorers())


@pytest.mark.parametrize("name", list_scorers())
def test_it_gives_what_the_scorer_gives(name):
    predictions = PREDICTIONS.get(name, ["A", "the left lung", "B, surely"])
    references = REFERENCES.get(name, ["A", "A", "B"])
    items = [Item(str(i), "", p, r) for i, (p, r) in enumerate(zip(predictions, references, strict=True))]
    function = getattr(functions, name)
    seeded = {"seed": 3} if "seed" in inspect.signature(function).parameters else {}
    expected = get_scorer(name).score(items, **seeded)
    assert function(predictions, references, **seeded) == expected
    assert functions.score(name, predictions, references, **seeded) == expected
    assert expected.n == 3
    if expected.interval_method == "bootstrap":  # then the seed is a matter of the caller's
        assert seeded


def test_options_come_by_list_or_stand_in_the_prompts():
    options = [["yes", "no"], ["left", "right"]]
    by_list = functions.choice_accuracy(["no", "left"], ["B", "B"], options=options)
    prompts = ["Is it?\nA. yes\nB. no", "Where?\nA. left\nB. right"]
    assert by_list == functions.choice_accuracy(["no", "left"], ["B", "B"], prompts=prompts)
    assert (by_list.score, by_list.items) == (50.0, (100.0, 0.0))


def test_peers_are_reached_by_name_and_fields():
    found = functions.score("peer:mslora_cr", ["yes", "no"], ["yes", "yes"], fields=[{"answer_type": "CLOSED"}] * 2)
    assert found.score == 50.0


def test_lists_of_different_lengths_are_refused_with_all_their_names():
    with pytest.raises(DataError) as error:
        functions.score("exact_match", ["a"], ["a", "b"], prompts=[])
    assert [problem.where for problem in error.value.problems] == ["references", "prompts"]
    with pytest.raises(DataError, match="no items"):
        functions.exact_match([], [])
    with pytest.raises(RecipeError, match="nosuch"):
        functions.score("nosuch", ["a"], ["a"])
