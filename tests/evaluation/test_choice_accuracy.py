from __future__ import annotations

import pytest

from cl_plugins.base.errors import DataError
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer, parse_options
from cl_plugins.evaluation.scorers.options import parse_choice, parse_reference


COLOURS = ("red", "blue", "green")


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Which?\nA. red\nB. blue\nC. green", COLOURS),
        ("Which?\n(A) red\n(B) blue\n(C) green\nAnswer with the option's letter.", COLOURS),
        ("Which?\n  A) red\n\n  B) blue\n  C) green\n", COLOURS),
        ("Which?\nA: red\nB: blue\nC: green", COLOURS),
        ("Which?\nA.red\nB.blue", ("red", "blue")),
        ("Which? A. red B. blue C. green", COLOURS),
        ("Which? (A) red, (B) blue, or (C) green", COLOURS),
        ("Which? A) red; B) blue; C) green. Answer with a letter.", COLOURS),
        ("Which? A. red B. blue C. green Answer with the option's letter directly.", COLOURS),
        ("Which? (A)red (B)blue\nAnswer (A) or so.", ("red", "blue")),
        ("Options: A. red, B. blue, C. green\nPick one.", COLOURS),
        # Capitals that are no markers.
        ("Is this hepatitis A. or not? A. yes B. no", ("yes", "no")),
        ("What did the U.S. team see?\nA. grade 1\nB. grade 2", ("grade 1", "grade 2")),
        ("Vitamin A. Which?\nA. red\nB. blue\nC. green", COLOURS),
        ("A. red\nB. blue\nC. green\nChoose A. or B. or C.", COLOURS),
        ("<image>\nWhich?\nA. CT Only\nB. St. John's wort", ("CT Only", "St. John's wort")),
        # No list of options.
        ("What is in the image?", None),
        ("A. red", None),
        ("A. red\nC. green", None),
        ("A.\nB.", None),
        ("", None),
    ],
)
def test_parse_options(prompt, options):
    assert parse_options(prompt) == options


def test_more_than_a_full_alphabet_of_options_is_no_crash():
    letters = [chr(65 + n % 26) for n in range(30)]
    assert len(parse_options("\n".join(f"{letter}. text {n}" for n, letter in enumerate(letters)))) == 26


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        (" (B) ", "B"),
        ("B.", "B"),
        ("B) blue", "B"),
        ("B: because", "B"),
        ("B\nC", "B"),
        ("B, I think", "B"),
        ("Blue", "B"),
        ("blue.", "B"),
        ("  BLUE", "B"),
        # Invalid: no letter, a letter out of range, a text that is not exactly an option's.
        ("b", None),
        ("D", None),
        ("Both", None),
        ("red or blue", None),
        ("it is blue", None),
        ("", None),
        ("The answer is B.", None),
    ],
)
def test_parse_choice(prediction, letter):
    assert parse_choice(prediction, COLOURS) == letter


def test_a_letter_out_of_range_can_still_be_the_text_of_an_option():
    assert parse_choice("I", ("I", "II", "III")) == "A"
    assert parse_reference("I", ("I", "II", "III")) == "A"
    assert parse_choice("I", ("II", "III")) is None


def test_an_option_text_that_occurs_twice_names_no_option():
    assert parse_choice("red", ("Red", "red.", "blue")) is None
    assert parse_choice("B", ("Red", "red.", "blue")) == "B"


def test_an_empty_answer_does_not_choose_an_empty_option():
    assert parse_choice(" ", ("", "x")) is None


@pytest.mark.parametrize("reference", ["B", "(B)", "B.", "blue", "Blue ", "B. blue", "(B) Blue"])
def test_references_may_be_letters_or_texts(reference):
    assert parse_reference(reference, COLOURS) == "B"


@pytest.mark.parametrize("reference", ["", "D", "purple", "B. red", "b"])
def test_references_that_name_no_option_are_errors(reference):
    with pytest.raises(DataError) as caught:
        get_scorer("choice_accuracy").score([Item("p/7", "", "A", reference, COLOURS), Item("p/8", "", "A", "A")])
    assert "item 'p/7'" in str(caught.value)
    assert "the options are ['red', 'blue', 'green']" in str(caught.value)


def test_without_options_only_letters_count():
    items = [Item("1", "Look.", "B", "B"), Item("2", "Look.", "blue", "B"), Item("3", "Look.", "Z", "Z")]
    score = get_scorer("choice_accuracy").score(items)
    assert score.items == (100.0, 0.0, 100.0)
    assert score.extra["random_baseline"] is None
    assert score.extra["items_without_options"] == 3
    with pytest.raises(DataError, match="no options were given or found"):
        get_scorer("choice_accuracy").score([Item("1", "Look.", "B", "blue")])


def test_score_rates_and_baselines():
    two, four = ("yes", "no"), ("a1", "b2", "c3", "d4")
    items = [
        Item("1", "", "A", "A", two),
        Item("2", "", "no", "A", two),
        Item("3", "", "maybe", "no", two),
        Item("4", "", "(D)", "d4", four),
        Item("5", "Which?\nA. x\nB. y", "C", "B"),
    ]
    score = get_scorer("choice_accuracy").score(items)
    assert score.items == (100.0, 0.0, 0.0, 100.0, 0.0)
    assert score.score == 40
    assert score.extra == {
        "invalid_rate": 40.0,
        "random_baseline": pytest.approx((50 + 50 + 50 + 25 + 50) / 5),
        "majority_baseline": 40.0,
    }


def test_majority_counts_a_constant_text_under_shuffled_options():
    # Letters are balanced, but "yes" is always right: a model that only ever says yes needs no image.
    items = [Item("1", "", "A", "A", ("yes", "no")), Item("2", "", "A", "B", ("no", "yes"))]
    assert get_scorer("choice_accuracy").score(items).extra["majority_baseline"] == 100
