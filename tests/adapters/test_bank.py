"""The experts of a linear layer: against ten lines of fp64 arithmetic, with every kind of gate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.adapters.bank import SHORT, Chosen, Expert, Experts, attach
from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.base.errors import RunStateError


IN, OUT, ROWS, LENGTH = 6, 5, 4, 3
WHOLE = SHORT + 2  # tokens of rows that are whole prompts


@st.composite
def banks(draw):
    """Trunks and experts: own trunks or shared ones, frozen and trained mixed, ranks that differ."""
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    shared = draw(st.booleans())
    count = draw(st.integers(1, 4))
    ranks = [draw(st.integers(1, 3))] if shared else [draw(st.integers(1, 3)) for _ in range(count)]
    trunks = [torch.randn(rank, IN, generator=generator) for rank in ranks]
    experts = []
    for number in range(count):
        trunk = 0 if shared else number
        b = torch.randn(OUT, ranks[trunk], generator=generator)
        experts.append(Expert(b, trunk, draw(st.sampled_from([1.0, 0.5, 2.0])), draw(st.booleans())))
    trained_trunks = [draw(st.booleans()) for _ in trunks]
    return seed, trunks, trained_trunks, experts


def layer_with(trunks, trained_trunks, experts, gate=None, dropout=0.0):
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    base = HeldBase(model)
    attach(base, {"layer": Experts(trunks, experts, trained_trunks, gate, dropout)})
    return base, model["layer"]


def reference(layer, trunks, experts, x, weights):
    """``W x + sum_e g_e s_e B_e A_t(e) x`` in fp64; weights: (rows, length, experts)."""
    total = x.double() @ layer.weight.double().T + layer.bias.double()
    for number, expert in enumerate(experts):
        term = expert.scaling * (x.double() @ trunks[expert.trunk].double().T) @ expert.b.double().T
        total = total + weights[..., number : number + 1].double() * term
    return total


def inputs(seed, length=LENGTH):
    return torch.randn(ROWS, length, IN, generator=torch.Generator().manual_seed(seed + 1))


def in_fp64(base, layer):
    for module in (layer,):
        module.double()
    return base


@given(banks(), st.sampled_from(["none", "token", "row", "one-hot"]), st.sampled_from([LENGTH, WHOLE]))
def test_every_gate_is_the_sum_of_its_terms(bank, kind, length):
    seed, trunks, trained_trunks, experts = bank
    generator = torch.Generator().manual_seed(seed + 2)
    count = len(experts)
    chosen = torch.randint(-1, count, (ROWS,), generator=generator)
    given_weights = {
        "none": None,
        "token": torch.rand(ROWS, length, count, generator=generator, dtype=torch.float64),
        "row": torch.rand(ROWS, count, generator=generator, dtype=torch.float64),
        "one-hot": Chosen(chosen),
    }[kind]
    full = {
        "none": torch.ones(ROWS, length, count),
        "token": given_weights,
        "row": given_weights.unsqueeze(1).expand(-1, length, -1) if kind == "row" else None,
        "one-hot": torch.nn.functional.one_hot(chosen.clamp_min(0), count)[:, None, :].expand(-1, length, -1)
        * (chosen >= 0)[:, None, None],
    }[kind]
    base, layer = layer_with(trunks, trained_trunks, experts, (lambda x: given_weights) if kind != "none" else None)
    in_fp64(base, layer)
    x = inputs(seed, length).double()
    truth = reference(layer, trunks, experts, x, full)
    for gradients in (False, True):  # two ways to add the terms
        with torch.set_grad_enabled(gradients):
            got = layer(x)
        assert (got - truth).abs().max() <= 1e-9 * truth.abs().max()


@pytest.mark.parametrize(
    "gate", [None, lambda x: Chosen(torch.tensor([1] * ROWS)), lambda x: Chosen(torch.tensor([1, 0] * (ROWS // 2)))]
)
def test_other_dtypes_are_added_without_gradients_as_with_them(gate):
    """A bf16 layer has its experts in fp32: their sum is rounded once."""
    trunks, experts = (
        [torch.randn(2, IN)] * 2,
        [Expert(torch.randn(OUT, 2), 0), Expert(torch.randn(OUT, 2), 1, 0.5, True)],
    )
    _, layer = layer_with(trunks, [False, True], experts, gate)
    layer.weight.data, layer.bias.data = layer.weight.data.bfloat16(), layer.bias.data.bfloat16()
    x = inputs(0).bfloat16()
    with torch.no_grad():
        without = layer(x)
    assert without.dtype == torch.bfloat16
    assert torch.equal(without, layer(x))


@given(banks())
def test_gradients_are_those_of_the_sum(bank):
    seed, trunks, trained_trunks, experts = bank
    count = len(experts)
    weights = torch.rand(ROWS, LENGTH, count, dtype=torch.float64, requires_grad=True)
    base, layer = layer_with(trunks, trained_trunks, experts, lambda x: weights)
    in_fp64(base, layer)
    x = inputs(seed).double().requires_grad_(True)
    names = [name for name in ("cl_a", "cl_b") if hasattr(layer, name)]
    assert torch.autograd.gradcheck(
        lambda x, *rest: layer(x), (x, weights, *(getattr(layer, name) for name in names)), nondet_tol=0.0
    )
    frozen = [b for name, b in layer.named_buffers() if name.startswith("cl_")]
    assert not any(b.requires_grad for b in frozen)
    assert {n for n, p in layer.named_parameters() if n.startswith("cl_")} == set(names)


@given(banks(), st.sampled_from([LENGTH, WHOLE]))
def test_gradients_of_a_choice_are_those_of_the_sum(bank, length):
    seed, trunks, trained_trunks, experts = bank
    generator = torch.Generator().manual_seed(seed + 3)
    chosen = Chosen(torch.randint(-1, len(experts), (ROWS,), generator=generator))
    base, layer = layer_with(trunks, trained_trunks, experts, lambda x: chosen)
    in_fp64(base, layer)
    x = inputs(seed, length).double().requires_grad_(True)
    names = [name for name in ("cl_a", "cl_b") if hasattr(layer, name)]
    assert torch.autograd.gradcheck(lambda x, *rest: layer(x), (x, *(getattr(layer, name) for name in names)))


@pytest.mark.parametrize(
    ("chosen", "length", "ranks"), [([1] * ROWS, LENGTH, 3), ([0, 1, 1, 0], WHOLE, 3), ([0, 1, 1, 0], 1, 5)]
)
def test_a_choice_computes_the_ranks_of_its_expert_only(chosen, length, ranks):
    """Single tokens of different experts are the exception: there, all ranks together are the cheaper way."""
    from torch.utils.flop_counter import FlopCounterMode

    trunks = [torch.randn(2, IN), torch.randn(3, IN)]
    experts = [Expert(torch.randn(OUT, 2), 0), Expert(torch.randn(OUT, 3), 1)]
    base, layer = layer_with(trunks, [False, False], experts, lambda x: Chosen(torch.tensor(chosen)))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        layer(inputs(0, length))
    tokens = ROWS * length
    assert counter.get_total_flops() == 2 * tokens * (IN * OUT + ranks * (IN + OUT))
    base.reset()


def test_dropout_is_for_trained_trunks_in_training_only():
    trunks, experts = [torch.randn(2, IN)], [Expert(torch.randn(OUT, 2), 0, 1.0, True)]
    _, layer = layer_with(trunks, [True], experts, dropout=0.5)
    x = inputs(0)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    _, frozen = layer_with(trunks, [False], [Expert(experts[0].b, 0)], dropout=0.5)
    frozen.train()
    assert torch.equal(frozen(x), frozen(x))


def test_reset_takes_everything_off():
    base, layer = layer_with([torch.randn(2, IN)], [True], [Expert(torch.randn(OUT, 2), 0, 1.0, True)])
    assert {n for n, _ in layer.named_parameters()} == {"weight", "bias", "cl_a", "cl_b"}
    base.reset()
    assert {n for n, _ in layer.named_parameters()} == {"weight", "bias"}
    assert not layer._forward_hooks


@pytest.mark.parametrize("what", ["hook", "module", "buffer", "parameter", "dtype"])
def test_what_was_put_on_past_the_base_is_named(what):
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    base = HeldBase(model)

    def left_behind(module, args, output):
        return output

    if what == "hook":
        model["layer"].register_forward_hook(left_behind)
    elif what == "module":
        model["layer"].extra = torch.nn.Linear(1, 1)
    elif what == "buffer":
        model["layer"].register_buffer("extra", torch.zeros(1))
    elif what == "parameter":
        model["layer"].extra = torch.nn.Parameter(torch.zeros(1))
    else:
        model["layer"].weight.data = model["layer"].weight.data.half()
    with pytest.raises(RunStateError, match="left_behind" if what == "hook" else "extra|float16"):
        base.reset()


def test_what_is_wrapped_and_hooked_through_the_base_is_undone():
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    base, layer, x = HeldBase(model), model["layer"], inputs(0)
    plain = layer(x)

    class Twice(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    base.wrap(["layer"], lambda name, module: Twice(module))
    base.hook("layer", lambda module, args, output: output + 1)
    base.hook("layer", lambda module, args, kwargs: ((args[0] * 0,), kwargs), before=True)
    assert torch.allclose(model["layer"](x), 2 * layer.bias + 1)
    base.reset()
    assert model["layer"] is layer
    assert torch.equal(model["layer"](x), plain)


def test_names_of_tensors_that_are_not_the_methods_own_are_refused():
    base = HeldBase(torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)}))
    with pytest.raises(ValueError, match="cl_"):
        base.register("layer.router", torch.zeros(1), trained=True)


def test_a_user_of_a_custom_trainer_may_watch_the_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    from cl_plugins.callbacks.learner import PlainBase

    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    base = PlainBase(LlamaForCausalLM(LlamaConfig(**sizes)))
    base.model.register_forward_hook(lambda module, args, output: None)
    base.reset()
    base.model.extra = torch.nn.Linear(1, 1)
    with pytest.raises(RunStateError, match="extra"):
        base.reset()
