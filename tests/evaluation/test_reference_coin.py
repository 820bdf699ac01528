"""CoIN's and UCIT's rules, and the caption composite."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import CompatibilityError, DataError
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.reference.captions import METRICS, composite


def score(name, right, answer, options=None, **fields):
    return get_scorer(name).score([Item("0", "", answer, right, options, fields)]).score


@pytest.mark.parametrize("task", ["arxivqa", "clevr_math", "iconqa", "imagenet_r"])
def test_ucit_compares_in_upper_case_and_strips_nothing(task):
    assert score(f"peer:ucit:{task}", "b", "B") == 100
    assert score(f"peer:ucit:{task}", "B", "B.") == 0
    assert score(f"peer:ucit:{task}", "B", "B ") == 0
    assert score(f"peer:mcitlib:{task}", "straße", "STRASSE") == 100


def test_imagenet_takes_an_empty_answer_for_right():
    assert score("peer:coin:imagenet", "cat", "") == 100
    assert score("peer:coin:imagenet", "cat", "a cat") == 100
    assert score("peer:coin:imagenet", "tabby cat", "cat") == 100
    assert score("peer:coin:imagenet", "cat", "Cat") == 0


@pytest.mark.parametrize(
    ("answer", "coin", "mcitlib"),
    [
        ("A", 100, 100),
        ("A. a dog", 100, 100),
        ("a dog", 100, 0),
        ("I see a dog", 0, 0),
        ("The answer is A.", 100, 100),
        ("The answer is A", 100, 0),
        ("The answer is A. The answer is A.", 100, 0),
        ("A.", 100, 0),
        ("dog", 0, 0),
        ("", 0, 0),
        ("B", 0, 0),
    ],
)
def test_scienceqa_and_its_two_last_resorts(answer, coin, mcitlib):
    assert score("peer:coin:scienceqa", "A", answer) == coin
    assert score("peer:mcitlib:scienceqa", "A", answer) == mcitlib


def test_scienceqa_knows_how_many_options_there_are():
    assert score("peer:coin:scienceqa", "C", "C", ("x", "y")) == 0
    assert score("peer:coin:scienceqa", "C", "C", ("x", "y", "z")) == 100
    assert score("peer:coin:scienceqa", "z", "C", ("x", "y", "z")) == 100


def test_vqa_equalities():
    assert score("peer:coin:vqav2", "Two", "two") == 100
    assert score("peer:coin:vizwiz", "two", "two.") == 0
    assert score("peer:coin:ocrvqa", "two", "TWO") == 100
    assert score("peer:coin:ocrvqa", "Unanswerable", "Unanswerable") == 0
    assert score("peer:coin:vizwiz", "Unanswerable", "Unanswerable") == 100
    assert score("peer:coin:gqa", "red", "Red..") == 100
    assert score("peer:coin:gqa", "Red", "Red") == 0


def test_grounding_cuts_the_outer_digits():
    box = {"answer_bbox": "[0.1, 0.1, 0.9, 0.9]", "size": [640, 480]}
    assert score("peer:coin:grounding", "", "[0.12, 0.1, 0.9, 0.88]", **box) == 100
    exact = {"answer_bbox": "[1.0, 0.0, 1.4, 0.5]", "size": [1, 1]}
    assert score("peer:coin:grounding", "", "[1.0, 0.0, 1.4, 0.5]", **exact) == 0, "read as .0, 0, 1.4, 0."
    assert score("peer:coin:grounding", "", " [0.1, 0.1, 0.9, 0.9] ", **box) == 100, "spaces are what is cut here"
    for answer in ("", "none", "[0.1, 0.2, 0.3]", "0.1 0.1 0.9 0.9"):
        assert score("peer:coin:grounding", "", answer, **box) == 0
    with pytest.raises(DataError, match="'size' must be the picture's"):
        score("peer:coin:grounding", "", "x", answer_bbox="[0, 0, 1, 1]")
    with pytest.raises(DataError, match="'answer_bbox' must be four numbers"):
        score("peer:coin:grounding", "", "x", answer_bbox="[0, 0, 1]", size=[2, 2])


def test_textvqa_is_soft():
    def soft(count, answer="Two"):
        return score("peer:coin:textvqa", "2", answer, answers=["2"] * count + ["seven"] * (10 - count))

    assert soft(0) == 0
    assert soft(1) == pytest.approx(100 * 0.9 / 3)
    assert soft(2) == pytest.approx(100 * (2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert soft(3) == pytest.approx(100 * (3 * 2 / 3 + 7) / 10)
    assert soft(4) == soft(10) == 100
    with pytest.raises(DataError, match="needs the 10 human 'answers', found 1"):
        score("peer:coin:textvqa", "2", "2")


@given(st.text(max_size=6), st.text(max_size=6))
def test_equality_implies_containment(right, answer):
    if right == answer:
        assert score("peer:ucit:iconqa", right, answer) == 100
        assert score("peer:coin:imagenet", right, answer) == 100
    assert score("peer:coin:ocrvqa", right, answer) <= score("peer:mllm_cl:med", right, answer)


def test_the_caption_composite_is_a_plain_mean_and_can_exceed_a_hundred():
    values = dict.fromkeys(METRICS, 50.0)
    assert composite(values) == 50
    assert composite(values | {"CIDEr": 120.0}) == 60
    assert composite(dict.fromkeys(METRICS, 100.0) | {"CIDEr": 1000.0}) > 200


def test_captions_without_the_peers_library_are_refused_clearly(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    for name in [n for n in sys.modules if n.startswith("pycocoevalcap.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CompatibilityError, match=r"peer:ucit:flickr30k: needs the package pycocoevalcap.*pip install"):
        score("peer:ucit:flickr30k", "a cat", "a cat")
