"""The difference of two scores on the same items, and its paired interval."""

from __future__ import annotations

import math
import random

import pytest

from cl_plugins.evaluation.drift import drift, drift_of_items, drifts_of, final_drift
from cl_plugins.evaluation.items import Item, TaskScore
from cl_plugins.evaluation.scorers import get_scorer


def rate(hits, scorer="exact_match@1", **more):
    items = tuple(100.0 * hit for hit in hits)
    return TaskScore(scorer, sum(items) / len(items), len(items), (0.0, 100.0), "wilson", items, **more)


def items(answers, references):
    pairs = enumerate(zip(answers, references, strict=True))
    return [Item(str(number), "q", answer, reference) for number, (answer, reference) in pairs]


def test_a_difference_of_rates_has_the_interval_of_its_pairs():
    """Every fifth item is lost: the resamples of the differences have mean -20 and deviation 100 sqrt(0.2 * 0.8 / n)."""
    n = 400
    before, after = rate([1] * n), rate([number % 5 != 0 for number in range(n)])
    found = drift(before, after)
    half = 1.96 * 100 * math.sqrt(0.2 * 0.8 / n)
    assert found["difference"] == pytest.approx(-20)
    assert found["interval"] == pytest.approx([-20 - half, -20 + half], abs=0.8)
    assert drift(before, after) == found  # the same items give the same interval


def test_items_are_drawn_in_pairs():
    """Hard and easy items, each one answered as before: no resample differs, however different the items are."""
    hits = [number % 2 for number in range(50)]
    assert drift(rate(hits), rate(hits)) == {"difference": 0.0, "interval": [0.0, 0.0]}


def test_other_scorers_other_items_and_other_values_have_no_interval():
    hits = [1, 0, 1, 0]
    for old in (rate(hits, "contains@1"), rate([1, 0, 1]), rate([1, 0, 1, 0, 1])):
        assert drift(old, rate(hits))["interval"] is None
    corpus = TaskScore("peer:x@1", 60.0, 4, (0.0, 100.0), "bootstrap", (100.0, 0.0, 100.0, 0.0))
    assert drift(corpus, corpus) == {"difference": 0.0, "interval": None}


def test_bleu_is_computed_from_the_sums_of_each_resample():
    rng = random.Random(0)
    words = "a scan of the left lung shows no sign of fluid or air in it today".split()
    references = [" ".join(rng.choices(words, k=12)) for _ in range(30)]
    wrong = [" ".join(text.split()[:6] + rng.choices(words, k=6)) for text in references]
    scorer = get_scorer("bleu")
    before, after = items(references, references), items(wrong, references)
    new = scorer.score(after)
    found = drift_of_items(scorer, before, after, new)
    assert found["difference"] == pytest.approx(new.score - 100)
    low, high = found["interval"]
    assert low < found["difference"] < high < 0
    # the same resamples, each scored as a corpus of its own
    import numpy as np

    draw, naive = np.random.default_rng(0), []
    for _ in range(40):
        counts = np.bincount(draw.integers(0, 30, 30), minlength=30)
        chosen = [number for number in range(30) for _ in range(counts[number])]
        drawn = items([wrong[number] for number in chosen], [references[number] for number in chosen])
        naive.append(scorer.score(drawn).score - 100)
    rows, value = scorer.statistics(after)
    ones, _ = scorer.statistics(before)
    draw = np.random.default_rng(0)
    for expected in naive:
        counts = np.bincount(draw.integers(0, 30, 30), minlength=30)
        assert value(counts @ np.asarray(rows)) - value(counts @ np.asarray(ones)) == pytest.approx(expected, abs=1e-9)


def test_other_ids_have_no_interval():
    scorer = get_scorer("exact_match")
    before = items(["a", "b"], ["a", "b"])
    after = [Item("x", "q", "a", "a"), Item("y", "q", "c", "b")]
    found = drift_of_items(scorer, before, after, scorer.score(after))
    assert found == {"difference": -50.0, "interval": None}


def test_the_part_of_metrics_json():
    told = {"drift": {"difference": -25.0, "interval": [-50.0, 0.0]}}
    scores = {
        ("zero_shot", "general"): rate([1, 1, 1, 1]),
        ("after_one", "general"): rate([1, 1, 1, 0], extra=told),
        ("zero_shot", "safety"): rate([0, 1], max_items=2),
    }
    found = drifts_of(scores)
    assert list(found) == ["general", "safety"]
    assert (found["general"].n, found["general"].scorer) == (4, "exact_match@1")
    row, part = final_drift(found["general"])
    assert (row, part.score, part.difference, part.difference_interval) == ("after_one", 75.0, -25.0, [-50.0, 0.0])
    assert found["general"].rows["zero_shot"].difference is None
    assert found["safety"].rows["zero_shot"].max_items == 2
    assert final_drift(found["safety"]) is None
