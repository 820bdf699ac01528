"""Sums of low-rank updates against a reference in fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.merge import MergeMeter, factors, merged_weight, modules, replaced
from cl_plugins.base.errors import RunStateError
from cl_plugins.contract.low_rank import LowRankUpdate


@st.composite
def chains(draw, most=5):
    """A weight and updates of different ranks and scalings, each about ``ratio`` of the weight."""
    out, inner = draw(st.integers(3, 24)), draw(st.integers(3, 24))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(out, inner, generator=generator)
    ratio = draw(st.floats(0.01, 1.0))
    updates = []
    for _ in range(draw(st.integers(1, most))):
        rank, scaling = draw(st.integers(1, 6)), draw(st.floats(0.25, 4.0))
        a, b = torch.randn(rank, inner, generator=generator), torch.randn(out, rank, generator=generator)
        b *= ratio * weight.norm() / (scaling * (b @ a).norm())
        updates.append(LowRankUpdate({"layer": a}, {"layer": b}, scaling))
    return weight, updates


def exact(weight, updates):
    total = weight.double()
    for update in updates:
        total = total + update.scaling * (update.b["layer"].double() @ update.a["layer"].double())
    return total


@given(chains())
def test_factors_are_the_sum_of_the_updates(chain):
    weight, updates = chain
    a, b = factors(updates, "layer")
    assert a.shape == (sum(u.a["layer"].shape[0] for u in updates), weight.shape[1])
    assert b.shape == (weight.shape[0], a.shape[0])
    delta = exact(torch.zeros_like(weight), updates)
    assert (b.double() @ a.double() - delta).norm() <= 1e-6 * delta.norm()


@settings(max_examples=60)
@given(chains())
def test_merging_loses_at_most_a_hundred_thousandth_of_the_update_in_fp32(chain):
    """Bound of the design for updates of 1 % of the weight and more; cancelling updates are not what it is about."""
    weight, updates = chain
    truth = exact(weight, updates)
    delta = truth - weight.double()
    merged = merged_weight(weight, updates, "layer")
    assert merged.dtype == torch.float32
    scale = max(delta.norm(), 0.01 * weight.double().norm())
    rounding = (
        torch.finfo(torch.float32).eps * truth.norm()
    )  # of the weights themselves, whatever the size of the update
    assert (merged.double() - truth).norm() <= 1e-5 * scale + rounding


@given(chains())
def test_the_meter_measures_what_it_says(chain):
    weight, updates = chain
    truth = exact(weight, updates)
    delta = (truth - weight.double()).norm()
    for dtype in (torch.float32, torch.bfloat16):
        merged = merged_weight(weight, updates, "layer").to(dtype)
        meter = MergeMeter()
        meter.add(weight, updates, "layer", merged)
        result = meter.result()
        assert result.dtype == str(dtype).removeprefix("torch.")
        assert result.relative == pytest.approx(float((merged.double() - truth).norm() / delta), rel=1e-6)
        assert result.best == pytest.approx(float((truth.to(dtype).double() - truth).norm() / delta), rel=1e-6)
        assert result.update == pytest.approx(float(delta / weight.double().norm()), rel=1e-6)
        assert result.best <= result.relative * (1 + 1e-4)  # rounding twice can come out a little nearer by chance


def test_the_meter_notices_a_merge_that_forgot_an_update():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, generator=generator)
    updates = [
        LowRankUpdate(
            {"layer": torch.randn(2, 8, generator=generator)}, {"layer": torch.randn(8, 2, generator=generator)}
        )
        for _ in range(2)
    ]
    meter = MergeMeter()
    meter.add(weight, updates, "layer", merged_weight(weight, updates[:1], "layer"))
    assert meter.result().relative > 0.1
    assert MergeMeter().result().relative == 0.0


@given(chains())
def test_the_stack_computes_base_plus_updates(chain):
    weight, updates = chain
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    model = torch.nn.ModuleDict({"layer": layer})
    x = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(1))
    plain = layer(x)
    base = HeldBase(model)
    base.attach(updates)
    truth = x.double() @ exact(weight, updates).T
    assert (layer(x).double() - truth).abs().max() <= 1e-5 * max(1.0, truth.abs().max())
    assert torch.equal(layer.weight, weight)  # nothing is added to the weights: exact for every base
    assert set(layer.state_dict()) == {"weight"}
    base.reset()
    assert torch.equal(layer(x), plain)


def test_the_stack_keeps_its_factors_in_fp32_on_a_half_precision_base():
    layer = torch.nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 16, generator=generator), torch.randn(16, 2, generator=generator) * 1e-3
    HeldBase(torch.nn.ModuleDict({"layer": layer})).attach([LowRankUpdate({"layer": a}, {"layer": b}, 2.0)])
    assert torch.equal(layer.cl_past_a, a)
    assert torch.equal(layer.cl_past_b, b * 2.0)
    assert layer(torch.randn(3, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_stack_for_another_model_is_refused():
    base = HeldBase(torch.nn.ModuleDict({"layer": torch.nn.Linear(4, 4)}))
    with pytest.raises(RunStateError, match="other"):
        base.attach([LowRankUpdate({"other": torch.zeros(1, 4)}, {"other": torch.zeros(4, 1)})])


def test_modules_that_some_updates_leave_out_and_tensors_that_are_replaced():
    one = LowRankUpdate({"p": torch.ones(1, 2)}, {"p": torch.ones(3, 1)}, 1.0, {"proj.weight": torch.tensor(1.0)})
    two = LowRankUpdate({"q": torch.ones(1, 2)}, {"q": torch.ones(3, 1)}, 1.0, {"proj.weight": torch.tensor(2.0)})
    assert modules([one, two]) == ["p", "q"]
    assert factors([one, two], "p")[0].shape == (1, 2)
    assert factors([one, two], "nowhere") is None
    weight = torch.zeros(3, 2, dtype=torch.float16)
    assert torch.equal(merged_weight(weight, [one], "nowhere"), weight.float())
    assert replaced([one, two])["proj.weight"] == 2.0  # replacements do not add up
