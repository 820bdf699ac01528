"""Strict scoring of boxes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.boxes import overlap, parse_box


RIGHT = "[0.1, 0.2, 0.5, 0.6]"


def score(*predictions: str, reference: str = RIGHT):
    items = [Item(str(n), "where?", text, reference) for n, text in enumerate(predictions)]
    return get_scorer("box_accuracy").score(items)


@pytest.mark.parametrize("text", [RIGHT, "0.1,0.2,0.5,0.6", " (.1, .2, .5, .6). "])
def test_the_box_itself_in_any_spelling(text):
    assert score(text).score == 100


@pytest.mark.parametrize(
    "text",
    ["", "no box", "[0.1, 0.2, 0.5]", "[0.1, 0.2, 0.5, 0.6, 0.7]", "[0.5, 0.2, 0.1, 0.6]", f"It is at {RIGHT}", "[a, b, c, d]"],
)  # fmt: skip
def test_anything_else_is_invalid(text):
    found = score(text)
    assert (found.score, found.extra["invalid_rate"]) == (0, 100)
    assert found.extra["mean_overlap"] is None


def test_more_than_one_half_is_needed():
    # the same width, moved by a third: 2/3 of each is shared, IoU exactly 1/2
    assert overlap((0, 0, 3, 1), (1, 0, 4, 1)) == 0.5
    assert score("[1, 0, 4, 1]", reference="[0, 0, 3, 1]").score == 0
    assert score("[0.9, 0, 3.9, 1]", reference="[0, 0, 3, 1]").score == 100


def test_outer_digits_count_unlike_in_the_peers_rule():
    """The peer cuts the first and the last digit of the answer; a right answer of few digits becomes wrong there."""
    item = Item("1", "where?", "1, 2, 5, 6", "1, 2, 5, 6", fields={"answer_bbox": "[1, 2, 5, 6]", "size": [10, 10]})
    assert get_scorer("box_accuracy").score([item]).score == 100
    assert get_scorer("peer:coin:grounding").score([item]).score == 0


def test_best_constant_box():
    items = [Item(str(n), "?", "", box) for n, box in enumerate(["[0, 0, 1, 1]", "[0, 0, 1, 1]", "[5, 5, 6, 6]"])]
    extra = get_scorer("box_accuracy").score(items).extra
    assert extra["constant_answer"] == "[0, 0, 1, 1]"
    assert extra["constant_baseline"] == pytest.approx(200 / 3)


def test_a_box_without_area_overlaps_nothing():
    assert score("[1, 1, 1, 2]", RIGHT, reference="[1, 1, 1, 2]").score == 0


def test_a_reference_that_is_no_box_is_an_error():
    with pytest.raises(DataError, match="'somewhere' is not a box"):
        score(RIGHT, reference="somewhere")


corner = st.floats(0, 0.9).map(lambda x: round(x, 3))
side = st.floats(0.05, 1).map(lambda x: round(x, 3))
boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(boxes, boxes, st.floats(0.5, 2000))
def test_overlap_is_symmetric_bounded_and_free_of_units(one, other, unit):
    share = overlap(one, other)
    assert 0 <= share <= 1 + 1e-9
    assert overlap(other, one) == pytest.approx(share)
    assert overlap(one, one) == pytest.approx(1)
    assert overlap(tuple(x * unit for x in one), tuple(x * unit for x in other)) == pytest.approx(share)


@given(boxes)
def test_what_is_written_is_read(box):
    assert parse_box(str(list(box))) == pytest.approx(box)
