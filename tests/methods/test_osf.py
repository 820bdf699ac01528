"""OSF: the layer against naive fp64 arithmetic and PEFT's own, what stays, what is left to the next task."""

from __future__ import annotations

import pytest
import torch
from running import NO_TESTS, go, recipe
from safetensors.torch import load_file

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.methods.osf.subspace import change, keep_orthogonal, preserved_rank, put_on, split


IN, OUT, KEPT = 6, 5, 2


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def layer():
    """A layer in fp64 whose differences are not zero."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT).double()})
    put_on(HeldBase(model), "layer", KEPT / OUT)
    found = model["layer"]
    with torch.no_grad():
        for seed, name in enumerate(("cl_du", "cl_ds", "cl_dv")):
            getattr(found, name).copy_(draw(*getattr(found, name).shape, seed=seed))
    return found


def test_the_layer_is_the_formula(layer):
    u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    low = [(u[:, i], s[i], v[i]) for i in range(KEPT, OUT)]
    weight = sum(s[i] * torch.outer(u[:, i], v[i]) for i in range(KEPT))
    for i, (a, b, c) in enumerate(low):
        weight = weight + (b + layer.cl_ds[i]) * torch.outer(a + layer.cl_du[:, i], c + layer.cl_dv[i])
    x = draw(4, 3, IN, seed=9)
    truth = x @ weight.T + layer.bias
    assert (layer(x) - truth).abs().max() <= 1e-9 * truth.abs().max()
    moved = layer.weight + change(layer)
    assert (moved - weight).abs().max() <= 1e-9 * weight.abs().max()


def test_gradients_are_those_of_the_formula_in_the_complement(layer):
    x = draw(2, 3, IN, seed=9)
    leaves = [getattr(layer, name) for name in ("cl_du", "cl_ds", "cl_dv")]
    found = torch.autograd.grad((layer(x) ** 2).sum(), leaves)
    free = [leaf.detach().clone().requires_grad_(True) for leaf in leaves]
    s, v = layer.cl_live_s + free[1], layer.cl_live_v + free[2]
    weight = (
        layer.weight.detach()
        + ((layer.cl_live_u + free[0]) * s) @ v
        - (layer.cl_live_u * layer.cl_live_s) @ layer.cl_live_v
    )
    truth = torch.autograd.grad(((x @ weight.T + layer.bias) ** 2).sum(), free)
    high_u, high_v = layer.cl_u_high, layer.cl_v_high
    truth = (truth[0] - high_u @ high_u.T @ truth[0], truth[1], truth[2] - truth[2] @ high_v.T @ high_v)
    for got, wanted in zip(found, truth, strict=True):
        assert (got - wanted).abs().max() <= 1e-9 * wanted.abs().max()


def test_steps_are_put_back_into_the_complement(layer):
    before = layer.cl_du.detach().clone()
    keep_orthogonal(layer)
    assert (layer.cl_u_high.T @ layer.cl_du).abs().max() < 1e-12
    assert (layer.cl_dv @ layer.cl_v_high.T).abs().max() < 1e-12
    high = layer.cl_u_high
    assert torch.allclose(layer.cl_du, before - high @ high.T @ before)


def test_at_first_nothing_is_added():
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    x = torch.randn(4, IN)
    before = model["layer"](x)
    put_on(HeldBase(model), "layer", 0.5)
    assert torch.equal(model["layer"](x), before)


def test_the_layer_is_that_of_peft():
    osf = pytest.importorskip("peft.tuners.osf.layer")
    torch.manual_seed(0)
    linear = torch.nn.Linear(IN, OUT)
    theirs = osf.Linear(linear, "default", effective_rank=KEPT)
    own = torch.nn.Linear(IN, OUT)
    own.load_state_dict(linear.state_dict())
    model = torch.nn.ModuleDict({"layer": own})
    put_on(HeldBase(model), "layer", KEPT / OUT)
    svd = theirs.osf_svd_params["default"]
    x = torch.randn(8, IN)
    with torch.no_grad():
        for seed, (key, name) in enumerate((("U_low", "cl_du"), ("S_low", "cl_ds"), ("V_low", "cl_dv"))):
            step = 0.3 * draw(*svd[key].shape, seed=seed).float()
            svd[key].add_(step)
            getattr(own, name).copy_(step)
    for module in (theirs, model["layer"]):
        module(x).square().sum().backward()
    assert torch.allclose(model["layer"](x), theirs(x), rtol=1e-4, atol=1e-5)
    for key, name in (("U_low", "cl_du"), ("S_low", "cl_ds"), ("V_low", "cl_dv")):
        assert torch.allclose(getattr(own, name).grad, svd[key].grad, rtol=1e-3, atol=1e-4), key


@pytest.mark.parametrize(("share", "kept"), [(0.5, 2), (0.99, 4), (0.01, 1), (0.8, 4)])
def test_how_many_directions_stay(share, kept):
    assert preserved_rank((OUT, IN), share) == kept
    low, high = split(draw(OUT, IN), kept)
    assert low[0].shape == (OUT, OUT - kept)
    assert high[1].shape == (kept, IN)


@pytest.mark.parametrize("faithful", [None, "peer"])
def test_what_a_task_leaves_and_what_stays_of_it(llama, text_data, tmp_path, faithful):
    """The second task starts from the weights of the first, and keeps their largest directions."""
    method = {"name": "osf", "preserve": 0.5, "faithful": faithful}
    go(recipe(llama, text_data, tmp_path / "run", method, cl=NO_TESTS, max_steps=4))
    weights = [load_file(tmp_path / "run" / "tasks" / t / "weights.safetensors") for t in ("01_one", "02_two")]
    start = load_file(llama / "model.safetensors")
    outside, moved = 0.0, 0.0
    for name, second in weights[1].items():
        first, base = weights[0][name], start[name]
        assert not torch.equal(first, base)
        u, _, v = torch.linalg.svd(first, full_matrices=False)
        kept = preserved_rank(first.shape, 0.5)
        step = (second - first).double()
        moved = max(moved, float(step.norm()))
        along = u[:, :kept].double().T @ step @ v[:kept].double().T  # U_h^T dW V_h^T
        outside = max(outside, float(along.norm() / step.norm()))
    assert moved > 1e-3
    assert outside < 1e-4 if faithful is None else outside > 1e-3
    carried = load_file(tmp_path / "run" / "carry" / "weights.safetensors")
    assert all(torch.equal(carried[name], value) for name, value in weights[1].items())
