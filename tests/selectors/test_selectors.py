"""Selectors: against a few lines of fp64 arithmetic, whatever the order and the shares in which rows come."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError, RecipeError
from cl_plugins.selectors import SELECTORS, make_selector
from cl_plugins.selectors.collect import accuracy, vectors_of


WIDTH = 5


def tasks(seed, count=3):
    """Rows of some tasks around centres of their own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) * 3
    return [c + torch.randn(7 + i, WIDTH, generator=generator, dtype=torch.float64) for i, c in enumerate(centres)]


def learned(selector, groups, cut=3):
    """Carried after tasks whose rows came in two parts."""
    carried = None
    for rows in groups:
        parts = [selector.measure(rows[:cut]), selector.measure(rows[cut:])]
        carried = selector.merge(carried, {name: parts[0][name] + parts[1][name] for name in parts[0]})
    return carried


@given(st.integers(0, 1000), st.integers(1, 6))
def test_prototypes_are_means_of_unit_vectors(seed, cut):
    groups = tasks(seed)
    selector = make_selector({"kind": "prototype", "features": "text"})
    rows = torch.cat(groups)
    got = selector.scores(selector.prepare(learned(selector, groups, cut)), rows)
    means = torch.stack([(g / g.norm(dim=1, keepdim=True)).mean(0) for g in groups])
    truth = torch.stack([torch.stack([(r @ m) / (r.norm() * m.norm()) for m in means]) for r in rows])
    assert (got - truth).abs().max() <= 1e-9


def seen(seed, count):
    """Pictures of width 3 and texts of width 5 of some rows, one of which has no picture."""
    generator = torch.Generator().manual_seed(seed)
    vision = torch.randn(count, 3, generator=generator), torch.arange(count) != seed % count
    return [vision, (torch.randn(count, WIDTH, generator=generator) + 1, torch.ones(count, dtype=torch.bool))]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_anchors_are_the_mean_cosine_with_the_mean_of_each_feature(seed, cut):
    selector = make_selector({"kind": "anchors", "features": ["vision", "text"]})
    groups = [seen(seed + i, 7 + i) for i in range(3)]
    carried = learned(selector, [selector.join(group) for group in groups], cut)
    got = selector.scores(selector.prepare(carried), selector.join(groups[0]))
    for row in range(7):
        for task, group in enumerate(groups):
            cosines = []
            for (values, has), (theirs, have) in zip(groups[0], group, strict=True):
                if has[row]:
                    f, a = values[row].double(), theirs[have].double().mean(0)
                    cosines.append(float(f @ a / (f.norm() * a.norm())))
            assert abs(float(got[row, task]) - sum(cosines) / len(cosines)) <= 1e-9


def test_a_task_of_texts_has_no_anchor_of_pictures():
    selector = make_selector({"kind": "anchors", "features": ["vision", "text"]})
    (vision, _), text = seen(0, 4)
    texts = [(vision, torch.zeros(4, dtype=torch.bool)), text]
    carried = selector.merge(selector.measure(selector.join(texts)), selector.measure(selector.join(seen(1, 4))))
    similar = selector.similarities(selector.prepare(carried), selector.join(seen(2, 4)))
    assert not similar[:, 0, 0].any()
    assert similar[:, 1].all()
    only = [(vision, torch.zeros(4, dtype=torch.bool)), (text[0], torch.zeros(4, dtype=torch.bool))]
    with pytest.raises(DataError, match="without a picture"):
        selector.join(only)


@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from([0.1, 3.0]))
def test_ridge_is_the_regression_on_all_samples_at_once(seed, cut, penalty):
    groups = tasks(seed)
    selector = make_selector({"kind": "ridge", "features": "text", "penalty": penalty})
    rows = torch.cat(groups)
    got = selector.scores(selector.prepare(learned(selector, groups, cut)), rows)
    labels = torch.cat([torch.eye(3, dtype=torch.float64)[i].repeat(len(g), 1) for i, g in enumerate(groups)])
    weights = torch.linalg.inv(rows.T @ rows + penalty * torch.eye(WIDTH, dtype=torch.float64)) @ rows.T @ labels
    assert (got - rows @ weights).abs().max() <= 1e-8


@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from(["sum", "mean"]))
def test_keys_are_cosines_with_the_mean_of_the_unit_features(seed, cut, combine):
    selector = make_selector({"kind": "keys", "learn": "mean", "combine": combine})
    groups = [seen(seed + i, 7 + i) for i in range(3)]
    carried = learned(selector, [selector.join(group) for group in groups], cut)
    got = selector.scores(selector.prepare(carried), selector.join(groups[0]))
    for row in range(7):
        for task, group in enumerate(groups):
            cosines = []
            for (values, has), (theirs, have) in zip(groups[0], group, strict=True):
                if has[row]:
                    f, k = values[row].double(), sum(h / h.norm() for h in theirs[have].double())
                    cosines.append(float(f @ k / (f.norm() * k.norm())))
            truth = sum(cosines) / (len(cosines) if combine == "mean" else 1)
            assert abs(float(got[row, task]) - truth) <= 1e-9


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_term_that_pulls_keys_to_features(reduction):
    from cl_plugins.selectors.learning import alignment

    values = {"vision": torch.randn(4, 3).double(), "text": torch.randn(4, 2).double()}
    there = {"vision": torch.tensor([True, False, True, True]), "text": torch.ones(4, dtype=torch.bool)}
    keys = {kind: torch.randn(part.shape[1]).double().requires_grad_() for kind, part in values.items()}
    truth = 0.0
    for kind, part in values.items():
        away = [
            1 - e @ keys[kind] / (e.norm() * keys[kind].norm())
            for e, has in zip(part, there[kind], strict=True)
            if has
        ]
        truth = truth + sum(away) / (len(away) if reduction == "mean" else 1)
    features = {kind: (part, there[kind]) for kind, part in values.items()}
    assert abs(float(alignment(features, keys, reduction) - truth)) <= 1e-12

    def term(*given):
        return alignment(features, dict(zip(keys, given, strict=True)), reduction)

    assert torch.autograd.gradcheck(term, tuple(keys.values()))
    nothing = {"vision": (torch.zeros(4, 3).double(), torch.zeros(4, dtype=torch.bool)), "text": features["text"]}
    gradient = torch.autograd.grad(alignment(nothing, keys), keys["vision"])[0]
    assert torch.equal(gradient, torch.zeros(3).double())


@pytest.mark.parametrize("kind", ["prototype", "ridge", "anchors", "keys"])
def test_tasks_that_lie_apart_are_told_apart(kind):
    selector = make_selector({"kind": kind, "features": "text"})  # anchors of one feature are what `join` gives
    groups = [torch.eye(WIDTH, dtype=torch.float64)[i] + torch.randn(20, WIDTH).double() * 0.01 for i in range(3)]
    carried = learned(selector, groups)
    for number, rows in enumerate(groups):
        assert selector.scores(selector.prepare(carried), rows).argmax(1).tolist() == [number] * 20
    assert accuracy(selector, carried, groups[-1]) == 100
    assert accuracy(selector, carried, groups[0]) == 0


def test_several_features_are_brought_to_one_length_and_what_is_missing_is_zero():
    text = (torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([True, True]))
    vision = (torch.tensor([[10.0], [7.0]]), torch.tensor([True, False]))
    assert torch.allclose(
        vectors_of([vision, text]), torch.tensor([[1.0, 0.6, 0.8], [0.0, 0.0, 1.0]], dtype=torch.float64)
    )
    assert vectors_of([text])[0].tolist() == [3.0, 4.0]
    with pytest.raises(DataError, match="without a picture"):
        vectors_of([vision])


def test_the_kinds_are_entry_points():
    assert {"oracle", "prototype", "ridge", "anchors", "keys"} <= set(SELECTORS.names())
    for name in ("oracle", "prototype", "ridge", "anchors", "keys"):
        assert SELECTORS.get(name, where="x").reveals


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, r"selector\.kind: is missing.*prototype"),
        ({"kind": "prototyp"}, "no selector called 'prototyp'.*prototype"),
        ({"kind": "ridge", "features": "visoin"}, "no features called 'visoin'.*vision"),
        ({"kind": "ridge", "features": []}, "is empty"),
        ({"kind": "ridge", "penalty": 0}, "penalty"),
        ({"kind": "prototype", "penalty": 1}, "penalty.*not a known key"),
    ],
)
def test_what_is_wrong_with_a_selector_is_said(given_, message):
    with pytest.raises(RecipeError, match=message):
        make_selector(given_)
