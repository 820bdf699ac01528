"""MoELoRA: the layer against fp64 arithmetic, one expert against plain LoRA, dropout, gradient checkpointing."""

from __future__ import annotations

import json

import pytest
import torch
from running import NO_TESTS, go, recipe
from safetensors.torch import load_file

from cl_plugins.adapters.bank import Expert, Experts, attach
from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.base.errors import RecipeError, RunStateError
from cl_plugins.methods.moelora.gate import TokenSoftmax


IN, OUT, RANK, EXPERTS, SCALING = 6, 5, 2, 3, 2.0


@pytest.fixture
def layer():
    """A linear layer in fp64 with three experts and their router, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    base = HeldBase(model)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    base.register("layer.cl_router", draw(EXPERTS, IN), trained=True)
    experts = [Expert(draw(OUT, RANK), i, SCALING, trained=True) for i in range(EXPERTS)]
    trunks = [draw(RANK, IN) for _ in range(EXPERTS)]
    gate = TokenSoftmax(model["layer"])
    attach(base, {"layer": Experts(trunks, experts, [True] * EXPERTS, gate, dropout=0.5, own_masks=True)})
    return model["layer"].double()


def formula(layer, x, masked):
    """``W x + s sum_i softmax(G x)_i B_i A_i drop_i(x)``."""
    weights = torch.softmax(x @ layer.cl_router.T, dim=-1)
    y = x @ layer.weight.T + layer.bias
    for i in range(EXPERTS):
        a, b = layer.cl_a[i * RANK : (i + 1) * RANK], layer.cl_b[:, i * RANK : (i + 1) * RANK]
        y = y + SCALING * weights[..., i : i + 1] * (masked[i] @ a.T @ b.T)
    return y


def test_the_layer_is_the_formula(layer):
    x = torch.randn(4, 3, IN, dtype=torch.float64)
    layer.eval()
    got, truth = layer(x), formula(layer, x, [x] * EXPERTS)
    assert (got - truth).abs().max() <= 1e-9 * truth.abs().max()


def test_every_expert_has_a_dropout_mask_of_its_own(layer):
    x = torch.randn(4, 3, IN, dtype=torch.float64)
    layer.train()
    torch.manual_seed(5)
    got = layer(x)
    torch.manual_seed(5)
    masked = [torch.nn.functional.dropout(x, 0.5) for _ in range(EXPERTS)]
    assert not torch.equal(masked[0], masked[1])
    truth = formula(layer, x, masked)
    assert (got - truth).abs().max() <= 1e-9 * truth.abs().max()


def test_gradients_reach_experts_router_and_input(layer):
    x = torch.randn(2, 3, IN, dtype=torch.float64, requires_grad=True)
    layer.eval()
    assert torch.autograd.gradcheck(lambda x, *rest: layer(x), (x, layer.cl_a, layer.cl_b, layer.cl_router))


def test_without_dropout_all_experts_are_two_products(layer):
    from torch.utils.flop_counter import FlopCounterMode

    layer.eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        layer(torch.randn(4, 3, IN, dtype=torch.float64))
    rank = EXPERTS * RANK
    assert counter.get_total_flops() == 2 * 12 * (IN * OUT + IN * EXPERTS + rank * IN + rank * OUT)


def trained(out, number=1, name="one"):
    return load_file(out / "tasks" / f"{number:02d}_{name}" / "update.safetensors")


def as_peft(tensors):
    """One expert under PEFT's names."""
    return {
        f"base_model.model.{name}".replace(".cl_a", ".lora_A.weight").replace(".cl_b", ".lora_B.weight"): t
        for name, t in tensors.items()
    }


def test_one_expert_is_plain_lora(llama, text_data, tmp_path):
    """The same initial A and the same dropout masks, so the same updates up to the order of ``s (B z)`` and ``(s B) z``."""
    keys = {"cl": NO_TESTS, "lora_dropout": 0.1, "lora_alpha": 6, "optim": "sgd", "learning_rate": 60.0}
    found = {}
    for name, method in {"lora": "seqlora", "moe": {"name": "moelora", "experts": 1}}.items():
        go(recipe(llama, text_data, tmp_path / name, method, ("one",), **keys))
        found[name] = trained(tmp_path / name)
        found[f"{name} start"] = go_nowhere(llama, text_data, tmp_path / f"{name}0", method)
    start, lora = as_peft(found["moe start"]), found["lora start"]
    assert start.keys() == lora.keys()
    assert all(torch.equal(start[name], lora[name]) for name in lora if ".lora_A." in name)
    one, other = as_peft(found["moe"]), found["lora"]
    assert one.keys() == other.keys()
    changes = [(other[name] - lora[name]).norm() for name in other if ".lora_A." in name]
    assert max(changes) > 1e-3  # the second step has moved A as well
    for name in other:
        assert other[name].norm() > 0
        assert (one[name] - other[name]).norm() <= 1e-5 * other[name].norm()


def go_nowhere(model, data, out, method):
    """What a task leaves whose only step has a rate of nearly 0: A, but for the rounding of B, as it began."""
    keys = {"optim": "sgd", "max_steps": 1, "learning_rate": 1e-30}
    go(recipe(model, data, out, method, ("one",), cl=NO_TESTS, **keys))
    return trained(out)


def test_the_authors_initial_values(llama, text_data, tmp_path):
    ours = go_nowhere(llama, text_data, tmp_path / "ours", {"name": "moelora", "experts": 2})
    theirs = go_nowhere(llama, text_data, tmp_path / "peer", {"name": "moelora", "experts": 2, "faithful": "peer"})
    values = {
        kind: torch.cat([t.flatten() for n, t in found.items() if n.endswith(".cl_a")])
        for kind, found in {"ours": ours, "peer": theirs}.items()
    }
    assert float(values["peer"].std()) == pytest.approx(0.01, rel=0.05)
    assert float(values["peer"].abs().max()) > 0.03  # a normal distribution, not a uniform one
    bound = max(t.shape[1] for n, t in ours.items() if n.endswith(".cl_a")) ** -0.5
    assert float(values["ours"].std()) > bound / 2
    for found in (ours, theirs):
        assert all(t.abs().max() <= t.shape[1] ** -0.5 for n, t in found.items() if n.endswith(".cl_router"))
        assert all(t.abs().max() < 1e-20 for n, t in found.items() if n.endswith(".cl_b"))


def test_a_rank_that_the_experts_cannot_share_is_refused_before_anything_loads(llama, text_data, tmp_path):
    import tiny

    keys = recipe(llama, text_data, tmp_path / "run", {"name": "moelora", "experts": 3})
    with pytest.raises(RecipeError, match=r"lora_rank.*is 4, which is not a multiple of 3 experts"):
        tiny.checked(keys)


def test_a_carry_of_another_number_of_experts_is_refused(llama, text_data, tmp_path):
    def keys(out, task, experts, **block):
        method = {"name": "moelora", "experts": experts}
        return recipe(llama, text_data, out, method, cl={"only": task, **NO_TESTS, **block})

    go(keys(tmp_path / "one", "one", 2))
    assert json.loads((tmp_path / "one" / "carry" / "carry.json").read_text())["meta"]["adapter"]["experts"] == 2
    with pytest.raises(RunStateError, match="experts 2; this recipe's is 4"):
        go(keys(tmp_path / "two", "two", 4, carry_from=str(tmp_path / "one")))
