"""LLaMA-Factory's character BLEU and ROUGE, checked against the host itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.reference.llamafactory import character_bleu, rouge


PAIRS = [
    ("axial CT of the chest", "Axial CT scan of the chest with contrast."),
    ("yes", "yes"),
    ("", "nothing said"),
    ("something", ""),
    ("a mass in the left lung, 3.5 cm", "left lung mass (3.5 cm)"),
    ("肺部CT", "胸部CT"),
]


def items_of(pairs):
    return [Item(str(n), "", answer, right) for n, (answer, right) in enumerate(pairs)]


def test_the_numbers_are_the_hosts_own():
    numpy = pytest.importorskip("numpy")
    metric = pytest.importorskip("llamafactory.train.sft.metric")
    answers, rights = zip(*PAIRS, strict=True)

    class Texts:
        """A tokenizer whose token ids are numbers of texts."""

        pad_token_id = 0

        @staticmethod
        def batch_decode(ids, skip_special_tokens):
            return [(answers + rights)[row[0]] for row in ids]

    numbers = numpy.arange(len(PAIRS))[:, None]
    given_ = SimpleNamespace(predictions=numbers, label_ids=numbers + len(PAIRS))
    theirs = metric.ComputeSimilarity(tokenizer=Texts())(given_)
    ours = get_scorer("peer:llamafactory").score(items_of(PAIRS))
    assert ours.extra["metrics"] == pytest.approx(theirs, abs=1e-12)
    assert ours.score == ours.extra["metrics"]["bleu-4"]


def test_short_answers_do_not_reach_a_hundred_though_they_are_right():
    right = ["red", "green", "red", "red", "blue", "red"]
    assert get_scorer("peer:llamafactory:bleu-4").score(
        items_of(zip(right, right, strict=True))
    ).score == pytest.approx(89.4, abs=0.05)
    assert character_bleu("red", "red") < 100
    assert character_bleu("green", "green") == 100


def test_items_are_rounded_before_the_mean():
    value = character_bleu("axial CT of the chest", "Axial CT scan")
    assert value == round(value, 4)


def test_characters_give_credit_for_captions_of_other_images():
    captions = [
        "Axial CT scan of the chest shows a mass in the left lung.",
        "Coronal MRI of the brain shows a lesion in the right lobe.",
        "Chest radiograph shows an effusion on the left side.",
    ]
    found = get_scorer("peer:medical_cl:rad").score(items_of(zip(captions, captions, strict=True)))
    assert found.score == 100
    assert found.extra["shuffled_floor"] > 20
    words = get_scorer("bleu").score(items_of(zip(captions, captions[1:] + captions[:1], strict=True)))
    assert words.score < found.extra["shuffled_floor"]


def test_rouge_is_zero_where_a_side_has_no_word():
    assert rouge("", "lung") == rouge("lung", " ") == {"rouge-1": 0, "rouge-2": 0, "rouge-l": 0}
    assert rouge("left lung", "left lung")["rouge-l"] == 100


def test_bleu_alone_needs_no_chinese_tokenizer(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    assert get_scorer("peer:llamafactory:bleu-4").score(items_of([("green", "green")])).score == 100
    with pytest.raises(CompatibilityError, match="needs the package jieba"):
        get_scorer("peer:llamafactory").score(items_of([("green", "green")]))


@given(st.text(min_size=4, max_size=20), st.text(max_size=20))
def test_the_right_answer_is_never_beaten(right, answer):
    assert character_bleu(right, right) == 100
    assert 0 <= character_bleu(answer, right) <= 100
