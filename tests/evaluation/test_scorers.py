from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError, RecipeError
from cl_plugins.evaluation import scorers
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import Scorer, get_scorer, list_scorers
from cl_plugins.evaluation.scorers.baselines import best_constant, candidates
from cl_plugins.evaluation.scorers.f1 import clipped_f1
from cl_plugins.evaluation.scorers.text import contains_words, normalise, tokens


ANSWERS = st.sampled_from(
    ["yes", "no", "Yes.", "no, yes", "the left lung", "lung", "lung lung lung", "3.5 mm", "", "?", "A"]
)


MEANS = ("bleu", "edit_similarity", "list_f1", "rouge_l", "sari", "token_f1")


def items_of(pairs, prompt="", options=None):
    return [Item(str(n), prompt, prediction, right, options) for n, (prediction, right) in enumerate(pairs)]


# --- finding scorers ---------------------------------------------------------------------------------------------


def test_scorers_are_found_by_name_and_by_key():
    assert list_scorers() == [
        *("bleu", "box_accuracy", "choice_accuracy", "contains", "edit_similarity", "exact_match"),
        *("list_f1", "rouge_l", "sari", "starts_with", "token_f1"),
    ]
    for name in list_scorers():
        scorer = get_scorer(name)
        assert isinstance(scorer, Scorer)
        assert scorer.key == f"{name}@{scorer.version}"
        assert get_scorer(scorer.key) is scorer
        assert scorer.summary


def test_unknown_names_and_versions_are_refused_with_a_way_out():
    with pytest.raises(RecipeError, match=r"tasks\[0\]\.scorer: .*'choice_acuracy'.*Did you mean 'choice_accuracy'"):
        get_scorer("choice_acuracy", where="tasks[0].scorer")
    with pytest.raises(RecipeError, match="version 1 here, not '7'"):
        get_scorer("bleu@7")


def test_peer_scorers_go_through_their_resolvers(monkeypatch):
    monkeypatch.setattr(scorers, "_REFERENCES", {})
    with pytest.raises(RecipeError, match=r"no reference library 'mllm_cl'.*none in this version"):
        get_scorer("peer:mllm_cl:rs")
    asked = []
    scorers.register_reference("mllm_cl", lambda task: asked.append(task) or get_scorer("contains"))
    assert get_scorer("peer:mllm_cl:rs@3").name == "contains"
    get_scorer("peer:mllm_cl")
    assert asked == ["rs", None]
    with pytest.raises(RecipeError, match="Did you mean 'mllm_cl'"):
        get_scorer("peer:mlm_cl")
    with pytest.raises(RecipeError, match="registered already"):
        scorers.register_reference("mllm_cl", lambda task: get_scorer("contains"))


def test_registering_refuses_duplicates_and_reserved_characters(monkeypatch):
    class Mine(scorers.BaseScorer):
        name, version, summary = "mine", 3, "mine"

        def score(self, items, *, seed=0):
            return self._rate([True for _ in items], {})

    monkeypatch.setattr(scorers.SCORERS, "own", dict(scorers.SCORERS.own))
    scorers.register(Mine())
    assert get_scorer("mine@3").score(items_of([("a", "b")])).score == 100
    with pytest.raises(RecipeError, match="registered already"):
        scorers.register(Mine())
    Mine.name = "peer:mine"
    with pytest.raises(RecipeError, match="not a valid name for a scorer"):
        scorers.register(Mine())


@pytest.mark.parametrize("name", list_scorers())
def test_empty_and_duplicate_items_are_refused(name):
    with pytest.raises(DataError, match="no items"):
        get_scorer(name).score([])
    with pytest.raises(DataError, match="more than once"):
        get_scorer(name).score([Item("a", "", "A", "A")] * 2)


@pytest.mark.parametrize("name", list_scorers())
def test_every_scorer_gives_a_complete_score(name):
    pairs = [("A", "A"), ("B", "A"), ("C", "C"), ("A", "B")]
    if name == "box_accuracy":
        pairs = [tuple(f"[0, 0, {ord(text)}, 9]" for text in pair) for pair in pairs]
    score = get_scorer(name).score(items_of(pairs, options=("a", "b", "c")), seed=4)
    assert score == get_scorer(name).score(items_of(pairs, options=("a", "b", "c")), seed=4)
    versions = dict.fromkeys(("bleu", "box_accuracy", "edit_similarity"), 1)
    versions |= dict.fromkeys(("contains", "starts_with", "token_f1"), 3)
    assert score.scorer == f"{name}@{versions.get(name, 2)}"
    assert score.n == len(score.items) == 4
    assert 0 <= score.interval[0] <= score.interval[1] <= 100
    assert score.interval_method == ("bootstrap" if name in MEANS else "wilson")
    assert all(0 <= value <= 100 for value in score.items)
    assert score.max_items is None


# --- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Yes.\n", "yes"),
        ("NO !?", "no"),
        ("left   lung", "left lung"),
        ("ＡＢＣ", "abc"),
        ("ﬁbrosis", "fibrosis"),
        ("Straße", "strasse"),
        ("3.5", "3.5"),
        ("e.g. this", "e.g. this"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


@given(st.text())
def test_normalise_twice_is_once(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "part", "inside"),
    [
        ("not visible", "no", False),
        ("known", "no", False),
        ("there is no tumour", "no", True),
        ("10", "1", False),
        ("1.5 mm", "1", False),
        ("0.1", "1", False),
        ("grade 1.", "1", True),
        ("grade 1, 2", "1", True),
        ("50%", "%", True),
        ("abnormal or normal", "normal", True),
        ("abnormal", "normal", False),
        ("yes", "", False),
        ("", "", True),
    ],
)
def test_contains_words(text, part, inside):
    assert contains_words(text, part) is inside


def test_tokens_keep_decimals_and_lone_signs():
    assert tokens("The 3.5 mm, (left) Lung.") == ["the", "3.5", "mm", "left", "lung"]
    assert tokens("+") == ["+"]
    assert tokens("  ") == []


# --- exact match, containment, F1 --------------------------------------------------------------------------------


def test_exact_match_counts_and_gives_the_best_constant_answer():
    score = get_scorer("exact_match").score(items_of([("Yes.", "yes"), ("no", "yes"), ("not", "No"), ("", "YES ")]))
    assert score.items == (100.0, 0.0, 0.0, 0.0)
    assert score.score == 25
    assert score.extra == {"constant_baseline": 75.0, "constant_answer": "yes"}


def test_contains_scores_whole_words_and_lets_a_long_constant_answer_win():
    pairs = [("The lung is clear", "lung"), ("not visible", "no"), ("x", "left lung"), ("x", "liver")]
    score = get_scorer("contains").score(items_of(pairs))
    assert score.items == (100.0, 0.0, 0.0, 0.0)
    assert score.extra == {"constant_baseline": 50.0, "constant_answer": "left lung"}


def test_token_f1_is_clipped():
    # The unclipped rule of a peer gives .857 here (specs: MSLoRA-CR); clipped: P = 1/4, R = 1.
    score = get_scorer("token_f1").score(items_of([("lung lung lung liver", "lung"), ("lung", "lung lung lung")]))
    assert score.items == pytest.approx((40.0, 50.0))
    assert score.score == pytest.approx(45)


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [("", "", 1.0), ("", "a", 0.0), ("a", "", 0.0), ("b a", "a b", 1.0), ("+", "-", 0.0), ("a b", "a c", 0.5)],
)
def test_f1_of_small_bags(prediction, reference, f1):
    assert get_scorer("token_f1").score(items_of([(prediction, reference)])).score == pytest.approx(100 * f1)


@given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
def test_exact_hits_are_hits_of_the_softer_scorers(pairs):
    items = items_of(pairs)
    exact = get_scorer("exact_match").score(items).items
    assert all(c >= e for c, e in zip(get_scorer("contains").score(items).items, exact, strict=True))
    assert all(f >= e for f, e in zip(get_scorer("token_f1").score(items).items, exact, strict=True))


@pytest.mark.parametrize("name", ["exact_match", "contains", "token_f1", "bleu"])
@given(st.lists(ANSWERS, min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_the_constant_baseline_is_what_that_answer_scores_and_no_reference_beats_it(name, references):
    scorer = get_scorer(name)
    extra = scorer.score(items_of([("x", right) for right in references])).extra
    scores = {answer: scorer.score(items_of([(answer, r) for r in references])).score for answer in references}
    assert extra["constant_baseline"] == pytest.approx(scores[extra["constant_answer"]])
    assert extra["constant_baseline"] == pytest.approx(max(scores.values()))


def test_candidates_are_the_most_frequent_and_ties_keep_their_order():
    assert candidates(["c", "b", "a", "b", "a"], limit=2) == ["b", "a"]
    assert candidates(["c", "b"], limit=None) == ["c", "b"]
    assert best_constant(["b", "a"], lambda answer: 5.0)["constant_answer"] == "b"


@given(st.lists(ANSWERS, min_size=1, max_size=6), st.lists(ANSWERS, min_size=1, max_size=6))
def test_f1_is_symmetric(left, right):
    from collections import Counter

    assert clipped_f1(Counter(left), Counter(right)) == clipped_f1(Counter(right), Counter(left))


@pytest.mark.parametrize(
    ("answer", "right", "holds"),
    [
        ("-5", "5", False),
        (".5", "5", False),
        ("-.5", ".5", False),
        ("-.5", "5", False),
        ("it is −5 degrees", "5", False),
        ("(-5)", "5", False),
        ("x=-5", "5", False),
        ("3.5", ".5", False),
        ("3-5", "-5", False),
        ("post-5", "-5", False),
        ("½", "1", False),
        ("-5.2", "-5", False),
        ("it is -5", "-5", True),
        ("it is .5 mm", ".5", True),
        ("-5 °C", "-5 °c", True),
        ("-5, not 5", "5", True),
        ("post-5", "5", True),
        ("3-5", "5", True),
        ("3-5", "3", True),
        ("L4/L5", "l5", True),
        ("COVID-19", "covid", True),
        ("COVID-19", "19", True),
        ("T-cell", "cell", True),
        ("No.5", "5", True),
        ("about...5", "5", True),
        ("pages 2--5", "5", True),
        ("5%", "5", True),
        ("(5)", "5", True),
        ("答案是5", "5", True),
    ],
)
def test_signs_and_leading_points_belong_to_numbers(answer, right, holds):
    item = Item("1", "?", answer, right)
    way = "contains:characters" if "答" in answer else "contains"
    assert get_scorer(way).score([item]).score == 100 * holds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("-5", ["-5"]),
        ("−5", ["-5"]),
        (".5", [".5"]),
        ("from -3.5 to .5", ["from", "-3.5", "to", ".5"]),
        ("post-5, 3-5 and No.5", ["post", "5", "3", "5", "and", "no", "5"]),
        ("a - 5 ...6", ["a", "5", "6"]),
        ("-5mg -x", ["-5mg", "x"]),
        ("½", ["1\u20442"]),
    ],
)
def test_tokens_keep_signs_and_leading_points(text, found):
    assert tokens(text) == found
    assert tokens(text, "characters") == found
