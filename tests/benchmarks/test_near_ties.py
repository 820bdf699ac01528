"""The check behind `make bench-eval`: where two greedy answers part, are the two best tokens equal up to rounding?"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch

from benchmarks.eval.near_ties import TIE, _first_gap, gaps


WORDS = ["red", "green", "blue", "grey"]


class Letters:
    """A tokenizer whose tokens are words."""

    @staticmethod
    def decode(ids, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(WORDS[i] for i in ids)


def found(ids, logits, theirs, own):
    rows = [torch.tensor([row]) for row in logits]
    return _first_gap(SimpleNamespace(tokenizer=Letters()), ids, rows, theirs, own)


def test_a_tie_is_a_gap_within_rounding():
    gap = found([0, 1], [[9.0, 1, 1, 1], [1, 8.0, 8.0 - 1e-5, 1]], "red green", "red blue")
    assert gap["token"] == 1
    assert gap["gap"] == pytest.approx(1e-5, rel=0.1)
    assert gap["relative_gap"] <= TIE
    assert gap["tie"]


def test_another_answer_is_no_tie():
    gap = found([0, 1], [[9.0, 1, 1, 1], [1, 8.0, 7.9, 1]], "red green", "red blue")
    assert (gap["token"], gap["tie"]) == (1, False)


def test_the_first_difference_counts_not_the_last():
    """A later tie does not excuse an answer that differed before."""
    gap = found([0, 1, 2], [[9.0, 1, 1, 1], [1, 8.0, 2, 1], [1, 1, 5.0, 5.0]], "red green blue", "red blue blue")
    assert (gap["token"], gap["tie"]) == (1, False)


def test_an_answer_that_only_ends_earlier_parts_at_its_end():
    gap = found([0, 1], [[9.0, 1, 1, 1], [1, 8.0, 8.0, 1]], "red", "red green")
    assert (gap["token"], gap["tie"]) == (1, True)


def test_answers_of_a_real_model(tmp_path):
    """Its own answer against a made-up one: they part at the first token, by the gap that the logits really have."""
    model, data = tiny.build_llava(tmp_path / "llava"), tiny.build_data(tmp_path / "data", tasks=("bench",))
    keys = {k: v for k, v in tiny.recipe(model, data, tmp_path / "out").items() if k != "cl"}
    info = (data / "dataset_info.json").read_text()
    (data / "dataset_info.json").write_text(info.replace('"bench_test"', '"bench"'))
    rows = gaps(keys, [0, 3], [("no such answer", "nor this"), ("x", "y")])
    assert [row["item"] for row in rows] == [0, 3]
    for row in rows:
        assert row["token"] == 0
        assert row["gap"] > 0
        assert row["tie"] == (row["relative_gap"] <= TIE)
