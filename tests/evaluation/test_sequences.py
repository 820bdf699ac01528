"""ROUGE-L, edit similarity and SARI against a few plain lines, and TRACE's and O-LoRA's rules."""

from __future__ import annotations

import difflib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import RecipeError
from cl_plugins.evaluation.functions import edit_similarity, rouge_l, sari, score
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.reference import trace
from cl_plugins.evaluation.scorers.sari import sari as sari_of
from cl_plugins.evaluation.scorers.sequences import common_length, similarity


TEXT = st.text(alphabet="abc", max_size=12)


def slow_common_length(first, second):
    """The table of the textbook."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, x in enumerate(first, 1):
        for j, y in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


@given(TEXT, TEXT)
def test_common_length_is_the_table_s(first, second):
    assert common_length(first, second) == slow_common_length(first, second) == common_length(second, first)
    assert common_length(first.split("a"), second.split("a")) == slow_common_length(
        first.split("a"), second.split("a")
    )


@given(TEXT, TEXT)
def test_similarity_is_one_only_for_equal_texts_and_not_below_difflib(first, second):
    assert (similarity(first, second) == 1) == (first == second)
    assert similarity(first, second) >= difflib.SequenceMatcher(None, first, second).ratio() - 1e-12


def test_rouge_l_counts_words_in_order():
    assert rouge_l(["police kill the gunman"], ["police killed the gunman"]).score == 75.0  # Lin 2004, section 3.1
    assert rouge_l(["the gunman kill police"], ["police killed the gunman"]).score == 50.0
    assert rouge_l(["The cat."], ["the cat"]).score == 100.0
    found = rouge_l(["a b", "c d"], ["a b", "c d"])
    assert (found.score, found.extra["shuffled_floor"]) == (100.0, 0.0)
    assert rouge_l([""], ["a"]).score == 0.0
    assert rouge_l(["肺炎"], ["肺癌"]).score == 50.0
    assert rouge_l(["肺炎"], ["肺癌"]).scorer == "rouge_l:characters@2"


def test_edit_similarity_counts_insertions_and_deletions():
    assert edit_similarity(["return x"], ["return y"]).score == pytest.approx(100 * (1 - 2 / 16))
    assert edit_similarity([" x = 1 "], ["x = 1"]).score == 100.0
    assert edit_similarity(["X"], ["x"]).score == 0.0
    with pytest.raises(RecipeError, match="no variant"):
        get_scorer("edit_similarity:words")


SOURCE = "about 95 species are currently accepted .".split()
REFERENCES = [
    text.split()
    for text in (
        "about 95 species are currently known .",
        "about 95 species are now accepted .",
        "95 species are now accepted .",
    )
]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # The example of the paper's own code (Xu et al. 2016), and the number that its widely used port prints for it.
        ("about 95 you now get in .", 0.26953601953601954),
    ],
)
def test_sari_is_that_of_the_published_example(answer, expected):
    assert sari_of(SOURCE, answer.split(), REFERENCES) == pytest.approx(expected, abs=1e-12)


def slow_sari(source, answer, reference):
    """One reference, written out: shares of each n-gram's count."""
    total = 0.0
    for n in range(1, 5):
        s, c, r = (Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (source, answer, reference))
        keep = {g: min(s[g], c[g]) for g in s if c[g]}
        good = {g: min(k, r[g]) for g, k in keep.items()}
        wanted = sum(min(s[g], r[g]) for g in s)
        p = sum(good[g] / keep[g] for g in keep) / len(keep) if keep else 1
        q = sum(good.values()) / wanted if wanted else 1
        total += 2 * p * q / (p + q) if p + q else 0
        gone = {g: s[g] - c[g] for g in s if s[g] > c[g]}
        total += sum(max(0, gone[g] - r[g]) / gone[g] for g in gone) / len(gone) if gone else 1
        new, right = set(c) - set(s), set(r) - set(s)
        p = len(new & right) / len(new) if new else 1
        q = len(new & right) / len(right) if right else 1
        total += 2 * p * q / (p + q) if p + q else 0
    return total / 12


WORDS = st.lists(st.sampled_from("abcd"), max_size=9)


@given(WORDS, WORDS, WORDS)
def test_sari_of_one_reference_is_the_slow_one(source, answer, reference):
    found = sari_of(source, answer, [reference])
    assert found == pytest.approx(slow_sari(source, answer, reference), abs=1e-12)
    assert 0 <= found <= 1


def test_sari_takes_the_prompt_as_source_and_knows_what_copying_gets():
    found = sari(["Kurz.", "Der Hund"], ["Kurz.", "Ein Hund"], prompts=["Ein langer Satz.", "Der Hund"])
    assert found.items[0] == 100.0
    assert found.items[1] < 100
    assert found.items[1] < found.extra["copy_baseline"] + 100
    assert (
        sari(["Ein Satz"], ["Kurz"], prompts=["Ein Satz"]).score
        == sari(["Ein Satz"], ["Kurz"], prompts=["Ein Satz"]).extra["copy_baseline"]
    )


# --- the published rules -----------------------------------------------------------------------------------------


def item(prediction, reference, prompt=""):
    return Item("0", prompt, prediction, reference)


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("society culture", "Society & Culture", True),
        ("World.", "World", True),
        ("the world", "World", False),
        ("very positive", "positive", False),
        ("", "World", False),
    ],
)
def test_olora_compares_without_punctuation(prediction, reference, right):
    for name in ("peer:olora", "peer:olora@1"):
        assert score(name, [prediction], [reference]).score == 100 * right
    assert get_scorer("peer:olora", task="dbpedia").name == "peer:olora"


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "value"),
    [
        ("fomc", "A", "A", 1),
        ("fomc", "A.", "A", 0),
        ("fomc", "", "", 0),
        ("c_stance", "a", "A", 0),
        ("numglue_cm", "2", "2", 1),
        ("numglue_ds", "2.0", "2", 0),
        ("scienceqa", "Because", "B", 1),
        ("scienceqa", "b", "B", 0),
        ("scienceqa", "", "B", 0),
        ("py150", "x = <STR_LIT:a>", "x = a", 1),
        ("py150", "return x", "return y", 0.88),  # 87.5 is rounded to the even number
        ("py150", "", "x", 0),
    ],
)
def test_trace_s_rules(task, prediction, reference, value):
    found = score(f"peer:trace:{task}", [prediction], [reference])
    assert found.score == pytest.approx(100 * value)
    assert found.extra["strict_twin"]


def test_trace_s_literals():
    assert trace.literals("f(<NUM_LIT>, <STR_LIT>, <NUM_LIT:3>, <CHAR_LIT:c>)") == "f(0, , 3, c)"


def test_trace_s_sari_tokenises_as_sacrebleu():
    right = item("Kurz, klar.", "Kurz, klar.", "Ein langer, unklarer Satz.")
    assert trace.simplified(right) == pytest.approx(1)
    assert trace.simplified(item("KURZ , klar .", "Kurz, klar.", "Ein langer, unklarer Satz.")) == pytest.approx(1)


def test_trace_s_rouge_is_that_of_the_package(monkeypatch):
    module = pytest.importorskip("rouge_chinese")  # the same code under another name, without the split at full stops
    from rouge_chinese import Rouge

    monkeypatch.setattr(trace, "need", lambda *_: module)

    expected = Rouge(metrics=["rouge-l"]).get_scores("they met and talked", "they talked")[0]["rouge-l"]["f"]
    assert score("peer:trace:meetingbank", ["they met and talked"], ["they talked"]).score == pytest.approx(
        100 * expected, abs=1e-6
    )
    assert trace.rouge_l(item("", "they talked")) == 0.0


def test_trace_s_sari_scores_an_empty_answer_as_the_original_does():
    keep = [0, 1, 1, 1]  # "a" was to be kept; of the longer n-grams none was, and none is
    delete = [2 / 3, 1, 1, 1]  # "b" and "c" are rightly gone
    add = [1, 1, 1, 1]  # nothing to add
    by_hand = (sum(keep) + sum(delete) + sum(add)) / 12
    assert trace.simplified(item("", "a", "a b c")) == pytest.approx(by_hand)
