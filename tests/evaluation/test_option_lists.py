from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis.strategies import text

from cl_plugins.base.errors import DataError
from cl_plugins.evaluation.annotations import read_annotations
from cl_plugins.evaluation.answers import read_answers
from cl_plugins.evaluation.functions import choice_accuracy, score
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.option_lists import read_options
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.options import parse_choice


COLOURS = ("red", "green", "blue")
LETTERED = dict(zip("ABC", COLOURS, strict=True))
LINES = "A. red\nB. green\nC. blue"


@pytest.mark.parametrize(
    "value",
    [
        list(COLOURS),
        LETTERED,
        {"C": "blue", "A": "red", "B": "green"},
        {"a": "red", "b": "green", "c": "blue", "d": None},
        {"0": "red", "1": "green", "2": "blue"},
        {1: "red", 2: "green", 3: "blue"},
        {"(A)": "red", "(B)": "green", "(C)": "blue"},
        [{"label": letter, "text": text} for letter, text in LETTERED.items()],
        [{"key": "B", "value": "green"}, {"key": "A", "value": "red"}, {"key": "C", "value": "blue"}],
        [{"text": text} for text in COLOURS],
        [{letter: text} for letter, text in LETTERED.items()],
        {"text": list(COLOURS), "label": ["A", "B", "C"]},
        {"text": list(COLOURS), "label": ["1", "2", "3"]},
        json.dumps(list(COLOURS)),
        json.dumps(LETTERED),
        str(list(COLOURS)),
        str(COLOURS),
        str(LETTERED),
        LINES,
        "(A) red (B) green (C) blue",
        "A: red; B: green; C: blue",
        "1. red\n2. green\n3. blue",
        "1) red\n2) green\n3) blue",
        [f"{letter}. {text}" for letter, text in LETTERED.items()],
        [f"({letter}) {text}" for letter, text in LETTERED.items()],
        [f"{number}. {text}" for number, text in enumerate(COLOURS, start=1)],
    ],
)
def test_every_published_form_gives_the_same_options(value):
    assert read_options(value) == COLOURS


def test_what_only_looks_like_a_mark_stays():
    assert read_options(["1.5", "2.5"]) == ("1.5", "2.5")
    assert read_options(["1:2", "2:3"]) == ("1:2", "2:3")
    assert read_options([1, 2.5, True]) == ("1", "2.5", "True")
    assert read_options(["B. subtilis", "A. flavus"]) == ("B. subtilis", "A. flavus")
    assert read_options("") is read_options(None) is read_options([]) is None


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("red", "'red' is not a list of texts"),
        ("red, green", "is not a list of texts"),
        ("['red' 'green']", "fewer than two options"),
        (7, "is int, not"),
        (b"AB", "is bytes, not"),
        ({"A": "red", "C": "blue"}, "gap"),
        ({"A": None, "B": "blue"}, "option A is None"),
        ({"first": "red", "second": "blue"}, "not the letters"),
        ([{"colour": "red", "size": 3}], "none of which is 'text'"),
        (["red", None], "entry 2 is None"),
        ([["red"], ["blue"]], "entry 1 is"),
        ([f"text {n}" for n in range(27)], "27 options"),
        ({"text": ["red", "blue"], "label": ["A"]}, "not as many labels"),
    ],
)
def test_everything_else_is_refused(value, what):
    with pytest.raises(ValueError, match=what):
        read_options(value)


@pytest.mark.parametrize("value", ["{[1]: 2}", "[{[1]: 2}, 3]", "{{}: 1}", {"9" * 7000: "a", "1": "b"}, "[" * 100_000])
def test_what_no_reader_of_literals_accepts_is_refused_alike(value):
    with pytest.raises(ValueError, match=r"is not a list of texts|Exceeds the limit"):
        read_options(value)


@given(text(alphabet="[]{}()'\":,.AB12 \n", max_size=20))
def test_any_text_gives_options_or_is_refused(value):
    with suppress(ValueError):
        found = read_options(value)
        assert found is None or all(isinstance(option, str) for option in found)


def test_options_as_text_are_never_single_characters():
    found = choice_accuracy(["green", "B", "red"], ["B"] * 3, options=[str(list(COLOURS)), LINES, LETTERED])
    assert found.items == (100, 100, 0)
    assert found.extra["random_baseline"] == pytest.approx(100 / 3)
    with pytest.raises(DataError, match=r"options\[1\]: 'red' is not"):
        choice_accuracy(["A", "A"], ["A", "A"], options=[["x", "y"], "red"])


TUMOURS = ("melanoma", "benign tumour", "cyst")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A benign tumour.", None),
        ("A white cell is visible.", None),
        ("A cyst", None),
        ("I think B", None),
        ("A", "A"),
        ("A.", "A"),
        ("A melanoma", "A"),
        ("A\nBecause it is dark", "A"),
        ("A is right", "A"),
        ("A, a melanoma", "A"),
        ("B because of its border", "B"),
        ("B\n\nExplanation: ...", "B"),
        ("Ｂ", "B"),
        ("B。", "B"),
        ("B、", "B"),
        ("（B）", "B"),
        ("Benign tumour.", "B"),
    ],
)
def test_the_article_is_no_letter(answer, letter):
    assert parse_choice(answer, TUMOURS) == letter


def test_the_text_of_an_option_goes_before_a_letter_in_it():
    assert parse_choice("B cell", ("T cell", "macrophage", "B cell")) == "C"
    assert parse_choice("A benign tumour", ("cyst", "A benign tumour")) == "B"
    assert parse_choice("I see", ["x"] * 9) is None


def test_a_number_that_may_be_place_or_text_is_refused(tmp_path):
    answers, notes = tmp_path / "answers.jsonl", tmp_path / "notes.json"
    answers.write_text('{"question_id": 1, "text": "2"}\n')

    def note(answer, options):
        notes.write_text(json.dumps([{"question_id": 1, "text": "How many?", "options": options, "answer": answer}]))
        return read_annotations(notes)

    with pytest.raises(
        DataError, match=r"record 1: the answer 2 is ambiguous: option C by its place and option B by its text"
    ):
        note(2, ["1", "2", "3", "4"])
    assert note(2, ["0", "1", "2", "3"])[0].reference == "C"  # both readings agree
    assert note(1, ["red", "blue"])[0].reference == "B"
    assert note(7, ["5", "7"])[0].reference == "7"  # too large for a place
    assert note("2", ["1", "2", "3", "4"])[0].reference == "2"
    found = get_scorer("choice_accuracy").score(read_answers(answers, notes))
    assert found.score == 100  # the text "2" names option B


def test_annotations_read_options_in_every_form(tmp_path):
    path = tmp_path / "notes.json"
    path.write_text(json.dumps([{"question_id": 1, "text": "?", "options": LETTERED, "answer": "B"}]))
    assert read_annotations(path)[0].options == COLOURS
    path.write_text(json.dumps([{"question_id": 1, "text": "?", "choices": "red", "answer": "B"}]))
    with pytest.raises(DataError, match=r"record 1: 'choices': 'red' is not a list"):
        read_annotations(path)


def test_scienceqa_takes_the_letter_before_an_option_whose_text_is_a_letter():
    options = ("B", "A", "C")
    assert score("peer:coin:scienceqa", ["B"], ["B"], options=[options]).score == 100
    assert score("peer:coin:scienceqa", ["A"], ["B"], options=[options]).score == 0
    assert score("peer:coin:scienceqa", ["B"], ["green"], options=[COLOURS]).score == 100


def test_only_a_missing_answer_type_is_open():
    items = [
        Item("1", "", "left lung", "left lung", None, {"answer_type": ""}),
        Item("2", "", "left lung", "right lung", None, {}),
        Item("3", "", "no", "no", None, {"answer_type": "CLOSED"}),
    ]
    found = get_scorer("peer:mslora_cr").score(items)
    assert (found.extra["open_items"], found.extra["closed_items"]) == (1, 1)
    assert found.extra["metrics"]["recall"] == pytest.approx(50)
    assert found.score == pytest.approx((50 + 100) / 2)
