from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError
from cl_plugins.evaluation.matrix import AccuracyMatrix, row_name


def matrix(**changes):
    fields = {
        "stream": "two_sites",
        "method": "inclora",
        "tasks": ["path", "rad"],
        "scorers": {"path": "choice_accuracy@2", "rad": "bleu@1"},
        "n": {"path": 120, "rad": 80},
        "zero_shot": [100 / 3, None],
        "scores": [[50.0, None], [40.1, 12.0]],
    }
    return AccuracyMatrix(**(fields | changes))


CELL = st.none() | st.floats(0, 100)


def test_the_format_is_the_documented_one():
    content = json.loads(matrix().to_json())
    assert len(content.pop("checksum")) == 64
    assert content == {
        "format": 2,
        "stream": "two_sites",
        "method": "inclora",
        "tasks": ["path", "rad"],
        "scorers": {"path": "choice_accuracy@2", "rad": "bleu@1"},
        "n": {"path": 120, "rad": 80},
        "zero_shot": [100 / 3, None],
        "scores": [[50.0, None], [40.1, 12.0]],
    }
    assert json.loads(matrix(rows=["joint"], scores=[[1, 2]]).to_json())["rows"] == ["joint"]


@given(st.lists(st.tuples(CELL, CELL), max_size=2), st.tuples(CELL, CELL))
def test_round_trip_keeps_every_digit(scores, zero_shot):
    made = matrix(scores=scores, zero_shot=zero_shot)
    assert AccuracyMatrix.from_json(made.to_json()) == made


def test_cells_are_set_by_name_and_rows_grow():
    made = matrix(scores=[], zero_shot=[])
    assert made.zero_shot == [None, None]
    made.set("zero_shot", "rad", 3)
    made.set("after_rad", "path", 40.0)
    assert made.scores == [[None, None], [40.0, None]]
    assert made.row_names() == ["after_path", "after_rad"]
    assert made.get("after_rad", "path") == 40.0
    assert made.get("zero_shot", "rad") == 3.0
    assert matrix(scores=[]).get("after_rad", "path") is None
    made.set("after_rad", "path", None)
    assert made.get("after_rad", "path") is None


def test_setting_a_cell_leaves_what_was_passed_alone():
    row = [50.0, None]
    made = matrix(scores=[row])
    made.set("after_path", "path", 1.0)
    assert row == [50.0, None]


def test_named_rows():
    joint = matrix(rows=["joint"], scores=[])
    joint.set("joint", "rad", 9.0)
    assert joint.scores == [[None, 9.0]]
    assert joint.after_each_task() == [[None, None], [None, None]]
    only = matrix(rows=["after_rad"], scores=[[None, 9.0]])
    assert only.after_each_task() == [[None, None], [None, 9.0]]
    with pytest.raises(DataError, match=r"no row 'after_path'.*zero_shot, after_rad"):
        only.set("after_path", "path", 1.0)
    assert row_name("rad") == "after_rad"


@pytest.mark.parametrize("score", [-0.1, 100.1, float("nan"), float("inf"), "3", True])
def test_a_cell_takes_scores_only(score):
    made = matrix()
    with pytest.raises(DataError, match=r"\[after_rad\]\[path\]"):
        made.set("after_rad", "path", score)
    assert made == matrix()


def test_unknown_tasks_are_named():
    with pytest.raises(DataError, match=r"no task 'cell'.*path, rad"):
        matrix().set("after_rad", "cell", 1.0)
    with pytest.raises(DataError, match="no row 'after_cell'"):
        matrix().get("after_cell", "rad")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "'tasks' is"),
        ({"tasks": ["path", "path"]}, "lists a task twice"),
        ({"tasks": "path"}, "'tasks' is 'path'"),
        ({"stream": None}, "'stream' is None"),
        ({"zero_shot": [1.0]}, "row 'zero_shot' has 1 cells for 2 tasks"),
        ({"scores": [[1.0, 2.0, 3.0]]}, "row 'after_path' has 3 cells for 2 tasks"),
        ({"scores": [[1.0, 101.0]]}, r"cell \[after_path\]\[rad\] is 101.0"),
        ({"scores": [[1.0, None]] * 3}, "3 rows of scores for 2 tasks"),
        ({"scores": 3}, "'scores' is 3"),
        ({"scores": [3]}, "row 'after_path' is 3"),
        ({"scorers": {"cell": "bleu@1"}}, "'scorers' names the unknown task 'cell'"),
        ({"n": {"path": -1}}, r"'n\.path' is -1"),
        ({"n": []}, "'n' is"),
        ({"rows": ["after_cell"], "scores": []}, "'rows' holds 'after_cell'"),
        ({"rows": ["joint", "after_rad"], "scores": []}, "'rows' holds 'joint'"),
        ({"rows": ["joint"]}, "2 rows of scores, but 1 names"),
        ({"rows": ["after_rad", "after_rad"]}, "names a row twice"),
        ({"rows": "joint"}, "'rows' is 'joint'"),
    ],
)
def test_bad_matrices_are_refused_when_made_and_when_read(changes, message):
    with pytest.raises(DataError, match=message):
        matrix(**changes)
    with pytest.raises(DataError, match=message) as caught:
        AccuracyMatrix.from_dict(matrix().to_dict() | changes, where="run/matrix.json")
    assert "run/matrix.json" in str(caught.value)


def test_everything_wrong_is_reported_at_once():
    with pytest.raises(DataError) as caught:
        matrix(zero_shot=[1.0, "1"], scores=[[1.0, 200.0]], n={"x": -1})
    assert len(caught.value.problems) == 3
    with pytest.raises(DataError) as caught:
        matrix(zero_shot=[1.0], scores=[[1.0]], n={"x": 1})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "list, not a JSON object"), ("{}", "format is None"), (b"\xff", "not JSON")],
)
def test_texts_that_are_no_matrix(text, message):
    with pytest.raises(DataError, match=message):
        AccuracyMatrix.from_json(text)


def test_missing_keys_are_all_named():
    with pytest.raises(DataError) as caught:
        AccuracyMatrix.from_dict({"format": 2, "stream": "s", "tasks": ["a"]})
    assert {"'method'", "'scorers'", "'n'", "'zero_shot'", "'scores'"} == {
        problem.what.split()[0] for problem in caught.value.problems
    }
