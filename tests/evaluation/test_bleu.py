from __future__ import annotations

import random

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.bleu import derangement


REFERENCES = [
    "Axial CT slice of the chest, lungs are clear.",
    "Coronal MR slice of the brain, no lesion is seen.",
    "Axial CT slice of the head, the the the skull is intact.",
    "Sagittal MR slice of the brain, white matter lesion.",
    "Axial CT slice of the chest, lungs are clear.",
]
PREDICTIONS = [
    "Axial CT slice of the chest, lungs are normal.",
    "Coronal MR slice of the brain.",
    "Axial CT slice of the head, the the the the skull.",
    "",
    "MR of a knee",
]


def items_of(predictions, references):
    return [Item(str(n), "", p, r) for n, (p, r) in enumerate(zip(predictions, references, strict=True))]


def test_the_score_is_that_of_sacrebleu_and_says_which_variant():
    score = get_scorer("bleu").score(items_of(PREDICTIONS, REFERENCES))
    assert score.score == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score, abs=1e-9)
    for part in ("nrefs:1", "tok:13a", "smooth:exp", "case:mixed", "eff:no", "version:"):
        assert part in score.extra["signature"]
    assert score.items == pytest.approx(
        [sacrebleu.sentence_bleu(p, [r]).score for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    )
    assert score.interval_method == "bootstrap"
    assert score.interval[0] < score.score < score.interval[1]


def test_the_interval_is_that_of_resampled_corpora():
    import numpy as np

    items = items_of(PREDICTIONS, REFERENCES)
    rng = np.random.default_rng(5)
    values = []
    for _ in range(1000):
        drawn = rng.integers(0, 5, 5)
        values.append(sacrebleu.corpus_bleu([PREDICTIONS[i] for i in drawn], [[REFERENCES[i] for i in drawn]]).score)
    expected = np.percentile(values, [2.5, 97.5])
    assert get_scorer("bleu").score(items, seed=5).interval == pytest.approx(expected, abs=1e-9)


def test_perfect_and_hopeless_predictions_stay_within_range():
    perfect = get_scorer("bleu").score(items_of(REFERENCES, REFERENCES))
    assert perfect.score == perfect.interval[1] == 100.0
    assert max(perfect.items) == 100.0
    hopeless = get_scorer("bleu").score(items_of([""] * 5, REFERENCES))
    assert (hopeless.score, hopeless.interval) == (0.0, (0.0, 0.0))


def test_the_shuffled_floor_is_the_corpus_score_against_the_seeded_derangement():
    scorer, items = get_scorer("bleu"), items_of(PREDICTIONS, REFERENCES)
    shuffled = [REFERENCES[i] for i in derangement(5, 3)]
    floor = scorer.score(items, seed=3).extra["shuffled_floor"]
    assert floor == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, [shuffled]).score, abs=1e-9)
    assert scorer.score(items[:1]).extra["shuffled_floor"] is None


@given(st.integers(2, 60), st.integers(0, 2**32))
def test_a_derangement_moves_everything(n, seed):
    order = derangement(n, seed)
    assert sorted(order) == list(range(n))
    assert all(index != moved for index, moved in enumerate(order))
    assert derangement(n, seed) == order


def test_a_derangement_of_one_does_not_exist():
    with pytest.raises(ValueError, match="no derangement"):
        derangement(1, 0)


def test_the_best_constant_caption_is_found_by_brute_force_too():
    rng = random.Random(0)
    words = ["axial", "the", "the", "CT", "slice", "of", "brain", "."]
    references = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(60)]
    extra = get_scorer("bleu").score(items_of(["x"] * 60, references)).extra
    scores = {answer: sacrebleu.corpus_bleu([answer] * 60, [references]).score for answer in references}
    assert extra["constant_baseline"] == pytest.approx(max(scores.values()), abs=1e-9)
    assert scores[extra["constant_answer"]] == pytest.approx(max(scores.values()), abs=1e-9)
