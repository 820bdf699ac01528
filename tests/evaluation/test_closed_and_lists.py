"""Closed questions by their first words, and answers that are lists."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.lists import list_items, set_f1
from cl_plugins.evaluation.scorers.text import contains_words, starts_with_words


STATES = st.lists(st.sampled_from(["Ohio", "Texas", "Iowa", "Utah", "New York"]), min_size=1, max_size=5)
SHORT = st.text("noyes, .", max_size=8)


def score(scorer: str, prediction: str, reference: str) -> float:
    return get_scorer(scorer).score([Item("0", "", prediction, reference)]).score


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("yes", "yes", True),
        ("Yes, in the left lung.", "yes", True),
        ("no, yes", "yes", False),
        ("not visible", "no", False),
        ("there is no tumour", "no", False),
        ("1.5 mm", "1", False),
        ("10", "1", False),
        ("1, perhaps", "1", True),
        ("Left side of the lung", "left side", True),
        ("", "no", False),
        ("", "", True),
        ("no", "", False),
    ],
)
def test_a_closed_answer_is_read_at_its_beginning(prediction, reference, right):
    assert score("starts_with", prediction, reference) == (100 if right else 0)


@given(SHORT, SHORT)
def test_from_exact_to_generous(prediction, reference):
    exact, begins, inside = (score(s, prediction, reference) for s in ("exact_match", "starts_with", "contains"))
    assert exact <= begins <= inside


@given(st.text(max_size=6), st.text(max_size=6))
def test_what_begins_with_words_contains_them(text, part):
    if part and starts_with_words(text, part):
        assert contains_words(text, part)


def test_what_a_list_holds():
    assert list_items(" Texas,  OHIO and Iowa.\nUtah;") == {"texas", "ohio", "iowa", "utah"}
    assert list_items("Ohio") == {"ohio"}
    assert list_items("Maryland, Portland") == {"maryland", "portland"}
    assert list_items(" , ") == frozenset()


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("Texas, Ohio", "Ohio, Texas", 100),
        ("Ohio,Texas,Iowa", "Ohio", 50),
        ("Ohio", "Ohio,Texas,Iowa", 50),
        ("Utah", "Ohio, Texas", 0),
        ("", "Ohio", 0),
        ("", "", 100),
    ],
)
def test_list_f1_of_one_answer(prediction, reference, value):
    assert score("list_f1", prediction, reference) == pytest.approx(value)


@given(STATES, STATES, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_count(found, right, rng: random.Random):
    shuffled = rng.sample(found * 2, 2 * len(found))
    assert score("list_f1", ", ".join(shuffled), ",".join(right)) == score("list_f1", ",".join(found), ",".join(right))


@given(STATES, STATES)
def test_list_f1_is_kinder_than_equality_and_harder_than_the_peer(found, right):
    """Entries of the peer keep their spaces, so both sides are written without: then it counts recall, we count F1."""
    found, right = list(dict.fromkeys(found)), list(dict.fromkeys(right))
    prediction, reference = ",".join(found), ",".join(right)
    ours = score("list_f1", prediction, reference)
    assert score("exact_match", prediction, reference) <= ours
    item = Item("0", "Which states have the highest value?", prediction, reference, None, {"image": "MapQA_1.png"})
    peer = get_scorer("peer:mllm_cl:sci").score([item])
    assert (ours == 100) == (set(found) == set(right))
    if set(right) <= set(found):
        assert peer.score == 100 >= ours


def test_the_constant_answer_of_lists_is_the_best_one():
    references = ["Ohio", "Ohio, Texas", "Ohio, Texas, Iowa", "Utah"]
    items = [Item(str(n), "", "Ohio", right) for n, right in enumerate(references)]
    extra = get_scorer("list_f1").score(items).extra
    values = {
        answer: sum(100 * set_f1(list_items(answer), list_items(right)) for right in references) / len(references)
        for answer in references
    }
    assert extra["constant_baseline"] == pytest.approx(max(values.values()))
    assert values[extra["constant_answer"]] == pytest.approx(max(values.values()))
    assert extra["exact_lists"] == 25
