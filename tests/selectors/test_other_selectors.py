"""Selectors of other packages: what they return is checked, and names them."""

from __future__ import annotations

import pytest
import torch
from running import go, recipe

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.selectors import SELECTORS, Selector, make_selector
from cl_plugins.selectors.checked import checked_scores
from cl_plugins.selectors.collect import accuracy


class Lab(Selector):
    kind = "lab"
    change = staticmethod(lambda scores: scores)

    def measure(self, vectors):
        return {"sums": vectors.sum(0, keepdim=True), "n": vectors.new_tensor([len(vectors)])}

    def merge(self, carried, own):
        return own if carried is None else {k: torch.cat([carried[k], own[k]]) for k in own}

    def prepare(self, carried):
        return {"means": carried["sums"] / carried["n"][:, None]}

    def scores(self, prepared, vectors):
        return type(self).change(vectors @ prepared["means"].T)


@pytest.fixture
def lab(monkeypatch):
    """The selector under its name, as if a package had registered it."""

    class Fresh(Lab):
        pass

    monkeypatch.setitem(SELECTORS.own, "lab", Fresh)
    monkeypatch.setattr(SELECTORS, "distribution", lambda name: "lab-extras")
    return Fresh


WRONG = {
    "not a number": (lambda scores: scores * float("nan"), "not finite"),
    "infinite": (lambda scores: scores + float("inf"), "not finite"),
    "nothing": (lambda scores: torch.full_like(scores, -float("inf")), "not finite"),
    "too many": (lambda scores: torch.cat([scores, scores], dim=1), r"shape \(3, 4\); \(3, 2\) was expected"),
    "too few": (lambda scores: scores[:, :1], r"shape \(3, 1\)"),
    "another row": (lambda scores: scores[:1], r"shape \(1, 2\)"),
    "flat": (lambda scores: scores[:, 0], r"shape \(3,\)"),
    "no tensor": (lambda scores: scores.tolist(), "returned list, not a tensor"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_scores_that_are_none(lab, name):
    change, message = WRONG[name]
    with pytest.raises(CompatibilityError, match=f"selector 'lab' of the package 'lab-extras': .*{message}"):
        checked_scores(make_selector({"kind": "lab"}), change(torch.rand(3, 2)), 3, 2)


def test_a_task_may_be_ruled_out(lab):
    scores = torch.tensor([[0.5, -float("inf")]])
    assert checked_scores(make_selector({"kind": "lab"}), scores, 1, 2) is scores


def test_own_selectors_blame_the_base():
    selector = make_selector({"kind": "prototype", "features": "text"})
    with pytest.raises(CompatibilityError, match=r"selector 'prototype': .* Look at the data and at the base"):
        accuracy(selector, selector.measure(torch.full((1, 2), float("nan"))), torch.ones(3, 2))


@pytest.mark.parametrize("method", ["single_task", "hide"])
@pytest.mark.parametrize("name", ["not a number", "too many", "too few"])
def test_a_run_stops_before_it_follows_them(lab, llama, text_data, tmp_path, method, name):
    change, _ = WRONG[name]
    out = tmp_path / "run"

    def later(scores):
        return scores if scores.shape[1] < 2 else change(scores)

    lab.change = staticmethod(later if name == "too few" else change)
    with pytest.raises(CompatibilityError, match="selector 'lab' of the package 'lab-extras'"):
        go(recipe(llama, text_data, out, {"name": method, "selector": {"kind": "lab", "features": ["text"]}}))
    assert not list(out.glob("predictions/after_two/*.jsonl"))
