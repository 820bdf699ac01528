"""Scorers on languages that are written without spaces between words; the numbers are those of sacrebleu, or counted by hand."""

from __future__ import annotations

import pytest
import sacrebleu

from cl_plugins.base.errors import RecipeError
from cl_plugins.evaluation.functions import score
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.lists import list_items
from cl_plugins.evaluation.scorers.segmentation import bleu_tokenizer, segmentation
from cl_plugins.evaluation.scorers.text import contains_words, starts_with_words, tokens


SHORT = [
    ("是的，有肺炎。", "肺炎"),
    ("右肺", "右肺"),
    ("图像显示右肺下叶有结节", "右肺下叶"),
    ("不是", "不是"),
    ("肝脏", "肝"),
]
LISTS = [("肝脏、脾脏、肾脏", "肾脏、肝脏、脾脏"), ("肝脏，脾脏", "脾脏，肝脏"), ("心脏和肺", "肺和心脏")]
REPORT = [
    ("双肺纹理清晰，心影大小正常，未见明显异常", "双肺纹理清晰，心影大小未见异常，双膈光整"),
    ("胸廓对称，气管居中，双肺未见实变影", "胸廓对称，气管居中，双肺野未见实变影"),
]


def scored(name, pairs):
    predictions, references = zip(*pairs, strict=True)
    return score(name, predictions, references)


def test_chinese_answers_get_the_scores_that_they_deserve():
    assert scored("bleu", REPORT).score == pytest.approx(71.5, abs=0.05)
    assert scored("list_f1", LISTS).score == 100
    assert scored("contains", SHORT).score == 100
    assert scored("starts_with", [("是，左肺可见", "是"), ("没有", "有")]).score == 50
    # 有 and 肺炎: three of the four characters of "有肺炎吗" are those of the reference, 2·3 / (4 + 3)
    assert scored("token_f1", [("有肺炎吗", "有肺炎")]).score == pytest.approx(100 * 6 / 7)


def test_bleu_equals_sacrebleu_with_the_tokeniser_of_the_language_and_says_which():
    predictions, references = zip(*REPORT, strict=True)
    found = scored("bleu", REPORT)
    assert found.score == pytest.approx(sacrebleu.corpus_bleu(predictions, [references], tokenize="zh").score)
    assert "tok:zh" in found.extra["signature"]
    assert found.scorer == "bleu:zh@1"
    assert get_scorer(found.scorer).score([Item(str(i), "", *p) for i, p in enumerate(REPORT)]).score == found.score


@pytest.mark.parametrize(
    ("right", "tokenizer"),
    [
        ("右下肺に結節を認める", "char"),
        ("오른쪽 폐에 결절이 있다", "char"),
        ("มีก้อนในปอด", "char"),
        ("ມີກ້ອນ", "char"),
        ("មានដុំ", "char"),
        ("အဆုတ်", "char"),
        ("右肺有结节", "zh"),
        ("a nodule in the lung", "13a"),
        ("узел в лёгком", "13a"),
        ("फेफड़े में गांठ", "13a"),
        ("عقدة في الرئة", "13a"),
    ],
)
def test_the_references_choose_the_tokeniser(right, tokenizer):
    assert bleu_tokenizer([right]) == tokenizer
    assert segmentation([right]) == ("words" if tokenizer == "13a" else "characters")
    for name in ("bleu", "token_f1", "contains", "starts_with", "list_f1", "exact_match"):
        assert scored(name, [(f"{right} {right}",) * 2]).score == pytest.approx(100)


def test_latin_references_are_scored_as_before_whatever_a_model_answers():
    for answer in ("a nodule", "结节 nodule"):
        found = scored("bleu", [(answer, "a nodule in the lung")])
        assert (found.scorer, "tok:13a" in found.extra["signature"]) == ("bleu@1", True)
        for name in ("token_f1@3", "contains@3", "list_f1@2", "starts_with@3"):
            assert scored(name, [(answer, "a nodule")]).scorer == name
    assert scored("token_f1", [("结节 nodule", "nodule")]).score == pytest.approx(100 * 2 / 3)


def test_a_bilingual_test_set_keeps_its_english_words_whole():
    pairs = [("the left lung", "the right lung"), ("左肺", "右肺")]
    assert scored("token_f1", pairs).items == pytest.approx((100 * 2 / 3, 50))
    assert scored("contains", [("not visible", "no"), ("有肺炎", "肺炎")]).items == (0, 100)
    assert tokens("CT显示3.5厘米 nodule", "characters") == ["ct", "显", "示", "3.5", "厘", "米", "nodule"]


def test_combining_marks_stay_with_their_character():
    assert tokens("มีก้อน", "characters") == ["มี", "ก้", "อ", "น"]
    assert tokens("हिन्दी में") == ["हिन्दी", "में"]
    assert not contains_words("ที่", "ท", "characters")
    assert not starts_with_words("ที่", "ท", "characters")


def test_list_separators_of_other_scripts():
    assert list_items("肝脏；脾脏以及肾脏", "characters") == {"肝脏", "脾脏", "肾脏"}
    assert list_items("肝臓・脾臓", "characters") == {"肝臓", "脾臓"}
    assert list_items("الكبد، الطحال") == {"الكبد", "الطحال"}
    assert list_items("Texas, Ohio and Iowa.") == {"texas", "ohio", "iowa"}


def test_the_segmentation_can_be_named_and_stands_in_the_key():
    assert scored("contains:words", SHORT).scorer == "contains:words@3"
    assert scored("contains:words", SHORT).score == 40
    assert scored("bleu:char", [("a nodule", "a nodule")]).scorer == "bleu:char@1"
    with pytest.raises(RecipeError, match=r"scorer: .*'bleu' has no variant 'chinese'.*13a, intl, zh"):
        get_scorer("bleu:chinese")
    with pytest.raises(RecipeError, match="'exact_match' has no variant 'zh'"):
        get_scorer("exact_match:zh")


def test_a_tokeniser_whose_package_is_missing_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("cl_plugins.evaluation.scorers.bleu.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"bleu:ja-mecab needs the package 'sacrebleu\[ja\]'"):
        get_scorer("bleu:ja-mecab")
