"""The rules of MLLM-CL and of the Medical-CL authors: every worked example of the specification, and every quirk."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError, RecipeError
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer, list_reference_scorers
from cl_plugins.evaluation.scorers.reference import LIBRARIES, printed_average
from cl_plugins.evaluation.scorers.reference.medical_cl import either_way
from cl_plugins.evaluation.scorers.text import contains_words, normalise


WORDS = st.lists(st.sampled_from(["no", "not", "a", "b", "know", "1", "10", "lung", "yes", "visible"]), max_size=4)
PLAIN = WORDS.map(" ".join)  # no punctuation, no double spaces: what strict scorers normalise away is not there


def item(right, answer, number=0, prompt="", **fields):
    return Item(str(number), prompt, answer, right, None, fields)


def score(name, right, answer, prompt="", **fields):
    return get_scorer(name).score([item(right, answer, prompt=prompt, **fields)]).score


def med(right, answer):
    return score("peer:mllm_cl:med", right, answer)


def rs(right, answer):
    return score("peer:mllm_cl:rs", right, answer)


def fin(right, answer):
    return score("peer:mllm_cl:fin", right, answer)


def choice(right, answer, source="AI2D"):
    return score("peer:mllm_cl:sci", right, answer, image=f"images/{source}_12.png")


def states(right, answer, prompt="Which states are darker than Texas?"):
    return score("peer:mllm_cl:sci", right, answer, prompt, image="images/MapQA_3.png")


# --- Med ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "answer", "value"),
    [
        ("no", "Not visible", 100),
        ("no", "It is unknown", 100),
        ("yes", "no, yes", 100),
        ("Yes", "YES", 100),
        ("yes.", "yes", 0),
        ("lung", "liver", 0),
        ("no", "Unanswerable, no", 0),
        ("no", "unanswerable, no", 100),
        ("", "anything", 100),
    ],
)
def test_med_looks_for_letters(right, answer, value):
    assert med(right, answer) == value


def test_an_unanswerable_item_stays_in_the_denominator():
    found = get_scorer("peer:mllm_cl:med").score([item("no", "no", 1), item("no", "Unanswerable", 2)])
    assert (found.score, found.n, found.items) == (50.0, 2, (100.0, 0.0))
    assert found.extra["metrics"] == {"accuracy": 50.0}
    assert found.interval_method == "wilson"


# --- RS and AD ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "answer", "value"),
    [
        ("a", "The answer is B", 100),
        ("1", "10", 100),
        ("c", "car", 100),
        ("no", "I know it", 0),
        ("no", "no way", 100),
        ("no", "say no, please", 100),
        ("no", "it is piano.", 100),
        ("no", "the piano.x", 100),
        ("b.", "b", 100),
        ("red car", "a red cart", 100),
        ("red car", "red", 0),
        ("a", "Unanswerable", 0),
    ],
)
@pytest.mark.parametrize("task", ["rs", "ad"])
def test_rs_and_ad_ask_for_a_boundary_on_one_side(task, right, answer, value):
    assert score(f"peer:mllm_cl:{task}", right, answer) == value


# --- Sci ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["AI2D", "TQA", "VQA", "SciVerse"])
def test_science_choices_are_exact(source):
    assert choice("B", "b", source) == 100
    assert choice("B", "B.", source) == 0
    assert choice("B", "B. x", source) == 0
    assert choice("B", " B", source) == 0


def test_science_takes_every_other_file_name_for_a_map():
    assert choice("B", "B.", "Geo") == 100
    assert choice("B", "B.", "ai2d") == 100


def test_states_are_pieces_that_nobody_strips():
    assert states("Texas, Ohio", "Ohio, Texas") == 0
    assert states("Ohio", "Ohio,Texas,Iowa") == 100
    assert states("Texas,Ohio", "ohio,texas") == 100
    assert states("Texas,Ohio", "Ohio") == 50
    assert states("Texas, Ohio", "Texas, Ohio") == 100
    assert states("Ohio", "Ohioan", prompt="Which state is darkest?") == 100


def test_partial_scores_get_a_bootstrap():
    items = [item("Texas,Ohio", "Ohio", n, "Which states?", image="MapQA_1.png") for n in range(3)]
    found = get_scorer("peer:mllm_cl:sci").score(
        [*items, item("Texas,Ohio", "", 9, "Which states?", image="MapQA_1.png")]
    )
    assert found.score == 37.5
    assert found.interval_method == "bootstrap"


def test_without_a_file_name_single_letters_are_choices():
    found = get_scorer("peer:mllm_cl:sci").score([item("B", "B."), item("Texas", "Texas, of course", 1)])
    assert found.items == (0.0, 100.0)
    assert found.extra["items_without_image"] == 2


# --- Fin, VP, OCR ------------------------------------------------------------------------------------------------


def test_fin_squeezes_the_answer_only():
    assert fin("B", "B.") == 100
    assert fin("B", "b .") == 100
    assert fin("B", "B. Up") == 0
    assert fin("not sure", "Not sure") == 0
    assert fin("B.", "B.") == 0
    assert fin("B", "Unanswerable") == 0


def test_vp_squeezes_both_sides_and_counts_apart():
    items = [
        item("3.", " 1 3 ", 1, task="Count"),
        item("red car", "A Red\nCar.", 2, task="Depth"),
        item("2", "Unanswerable 2", 3, task="Count"),
        item("7", "8", 4, task="Count"),
    ]
    found = get_scorer("peer:mllm_cl:vp").score(items)
    assert found.items == (100.0, 100.0, 100.0, 0.0)
    assert found.extra["metrics"] == {"accuracy": 75.0, "count_accuracy": pytest.approx(200 / 3)}


FORMULA = "Handwritten Mathematical Expression Recognition"


def test_ocr_divides_by_ten_and_keeps_the_case_of_formulas():
    items = [
        item("Stop", "it says STOP", 1, answer_type="Regular Text Recognition"),
        item("x ^ 2", "X^2", 2, answer_type=FORMULA),
        item("x ^ 2", "= x ^2", 3, answer_type=FORMULA),
        item("a", "b or c", 4, answer_type="Doc-oriented VQA", answers=["a", "C"]),
    ]
    found = get_scorer("peer:mllm_cl:ocr").score(items)
    assert found.items == (100.0, 0.0, 100.0, 100.0)
    assert found.extra["metrics"] == {
        "text_recognition": 1,
        "scene_text_centric_vqa": 0,
        "doc_oriented_vqa": 1,
        "key_information_extraction": 0,
        "handwritten_mathematical_expression_recognition": 1,
        "final_score": 3,
        "final_score_norm": 0.3,
    }
    assert found.score == 0.3
    assert found.extra["accuracy"] == 75
    thousand = [item("a", "a" if n < 500 else "b", n, answer_type="Doc-oriented VQA") for n in range(1000)]
    assert get_scorer("peer:mllm_cl:ocr").score(thousand).score == 50


def test_ocr_needs_categories_and_at_most_a_thousand_items():
    with pytest.raises(DataError, match=r"item '0': its answer_type None is none of OCRBench's"):
        score("peer:mllm_cl:ocr", "a", "a")
    many = [item("a", "a", n, answer_type="Doc-oriented VQA") for n in range(1001)]
    with pytest.raises(DataError, match="1001 items; the peer divides the hits by 10"):
        get_scorer("peer:mllm_cl:ocr").score(many)


# --- Medical-CL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "answer", "value"),
    [
        ("B", " b \n", 100),
        ("B", "B. cup forceps", 100),
        ("B", "The answer is: B", 100),
        ("B", "B: b", 100),
        ("B", "b.lue", 100),
        ("B", "(B)", 0),
        ("B", "B) cup forceps", 0),
        ("B", "B, because", 0),
        ("B", "A: B: C", 0),
        ("B", "", 0),
    ],
)
@pytest.mark.parametrize("task", ["sur", "cell"])
def test_medical_choices(task, right, answer, value):
    assert score(f"peer:medical_cl:{task}", right, answer) == value


def test_medical_path_is_the_rule_of_the_paper_and_the_committed_one_has_its_own_name():
    assert score("peer:medical_cl:path", "no", "not visible") == 100
    assert score("peer:medical_cl:path", "left lung", "lung") == 0
    assert score("peer:medical_cl:path_either_way", "left lung", "Lung.") == 100
    assert either_way(item("anything", "")) == 1
    assert either_way(item("a.b", "a.b")) == 0, "only the answer loses its full stops, so neither holds the other"


@pytest.mark.parametrize(
    ("scores", "printed", "mean"),
    [
        ((36.01, 31.45, 4.99, 12.86), 21.11, 21.33),
        ((53.58, 47.12, 75.58, 18.12), 48.57, 48.60),
        ((54.54, 57.54, 80.27, 16.20), 52.09, 52.14),
    ],
)
def test_printed_averages_cut_bleu_to_a_whole_number(scores, printed, mean):
    named = dict(zip(("path", "sur", "cell", "rad"), scores, strict=True))
    assert printed_average(named) == pytest.approx(printed, abs=0.0051)
    assert printed_average(named, truncated="none") == pytest.approx(mean, abs=0.0051)
    assert printed_average({"rad": 12.86}) == 12
    with pytest.raises(ValueError, match="no average"):
        printed_average({})


@given(st.dictionaries(st.sampled_from(["path", "sur", "cell", "rad"]), st.floats(0, 100), min_size=1))
def test_the_printed_average_never_exceeds_the_mean(scores):
    mean = sum(scores.values()) / len(scores)
    assert mean - 1 / len(scores) - 1e-9 <= printed_average(scores) <= mean + 1e-9


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_reference_scorers())
def test_every_listed_peer_is_found_under_its_own_name(name):
    scorer = get_scorer(name)
    assert scorer.name == name
    assert scorer.summary
    assert get_scorer(scorer.key) is scorer


def test_the_task_of_the_stream_picks_the_rule():
    assert get_scorer("peer:mllm_cl", task="fin").name == "peer:mllm_cl:fin"
    assert get_scorer("peer:ucit", task="CLEVR-Math").name == "peer:ucit:clevr_math"
    assert get_scorer("peer:mslora_cr", task="path").name == "peer:mslora_cr"
    assert get_scorer("peer:mslora_cr", task="iu_x_ray").name == "peer:mslora_cr:iu-x-ray"
    assert get_scorer("contains", task="fin").name == "contains"
    with pytest.raises(
        RecipeError, match=r"cl\.x: peer:mllm_cl:site_a the library 'mllm_cl' has no rule for 'site_a'"
    ):
        get_scorer("peer:mllm_cl", where="cl.x", task="site_a")


def test_what_cannot_be_found_says_what_can():
    with pytest.raises(RecipeError, match=r"has one rule per task; name the task.*peer:mllm_cl:rs"):
        get_scorer("peer:mllm_cl")
    with pytest.raises(RecipeError, match=r"commercial language model.*strict"):
        get_scorer("peer:mllm_cl:math")
    with pytest.raises(RecipeError, match="Did you mean 'med'"):
        get_scorer("peer:mllm_cl:meed")
    assert all(library.source for library in LIBRARIES.values())


# --- where one mode must dominate the other ----------------------------------------------------------------------


@given(PLAIN, PLAIN)
def test_letters_find_whatever_whole_words_find(right, answer):
    assume(right)
    if contains_words(normalise(answer), normalise(right)):
        assert med(right, answer) == 100


@given(PLAIN, PLAIN)
def test_a_boundary_on_one_side_lies_between_words_and_letters(right, answer):
    assume(right)
    if contains_words(normalise(answer), normalise(right)):
        assert rs(right, answer) == 100
    assert rs(right, answer) <= med(right, answer)


@given(st.text(max_size=8), st.text(max_size=8))
def test_an_exact_choice_of_the_peer_is_exact_for_us(right, answer):
    if choice(right, answer) == 100:
        assert score("exact_match", right, answer) == 100


@given(st.sampled_from("ABCD"), st.text("ABCDx .,()", max_size=5))
def test_our_parser_accepts_every_letter_that_the_medical_rule_accepts(right, answer):
    assume("X" not in right)
    if score("peer:medical_cl:sur", right, answer) == 100:
        ours = Item("0", "", answer, right, ("one", "two", "three", "four"))
        assert get_scorer("choice_accuracy").score([ours]).score == 100


@given(
    st.lists(st.sampled_from(["ohio", "texas", "iowa"]), min_size=1, unique=True),
    st.permutations(["ohio", "texas", "iowa"]),
)
def test_naming_every_state_gets_everything(right, every):
    assert states(",".join(right), ",".join(every)) == 100
