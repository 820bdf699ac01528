"""BranchLoRA's layer, gate, freezing and merging of what is carried, each against a few lines of fp64 arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.adapters.bank import Expert, Experts, attach
from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.row_features import places_of
from cl_plugins.base.errors import CompatibilityError
from cl_plugins.methods.branchlora.branches import Past, joined
from cl_plugins.methods.branchlora.config import BranchLoRAConfig
from cl_plugins.methods.branchlora.freezing import frozen_after
from cl_plugins.methods.branchlora.gate import BranchGate, sparse_gate
from cl_plugins.methods.usage import Usage


IN, OUT, RANK, BRANCHES, SCALING = 6, 5, 2, 4, 2.0
LENGTHS, FIRST, ANSWER = (5, 3, 4), (0, 2, 1), 4  # three left-padded rows of five positions, whose last is an answer


def state(fresh=True, tasks=(0, 0, 0), kept=None):
    attended = torch.tensor([[i >= first for i in range(5)] for first in FIRST])
    prompt = attended.clone()
    prompt[:, ANSWER] = False
    kept = {"expert": torch.tensor(tasks)} if kept is None else kept
    ids = torch.zeros(3, 5 if fresh else 1)
    rows = SimpleNamespace(
        ids=ids,
        attended=attended,
        prompt=prompt,
        prompt_places=places_of(prompt),
        first=torch.tensor(FIRST),
        fresh=fresh,
        kept=kept,
    )
    return SimpleNamespace(off=False, current=rows)


def layer(config, rows_state, *, frozen=(False, True, False, False), routers=0, trained=True):
    """A linear layer with branches in fp64, none of them zero; the second one is frozen."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    base = HeldBase(model)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    a, bs = draw(RANK, IN), [draw(OUT, RANK) for _ in range(BRANCHES)]
    if routers:
        base.register("layer.cl_routers", draw(routers, BRANCHES, IN), trained=False)
    else:
        base.register("layer.cl_router", draw(BRANCHES, IN), trained=trained)
    gate = BranchGate("layer", model["layer"], rows_state, config)
    experts = [Expert(b, 0, SCALING, trained=not held) for b, held in zip(bs, frozen, strict=True)]
    attach(base, {"layer": Experts([a], experts, [True], gate)})
    return model["layer"].double(), a.double(), [b.double() for b in bs], gate


def naive_gate(scores, top_k, norm):
    """Softmax over the k best scores, row by row."""
    found = torch.zeros_like(scores)
    for row, one in enumerate(scores):
        best = sorted(range(len(one)), key=lambda j: -one[j].item())[:top_k]
        over = best if norm == "selected" else range(len(one))
        total = sum(torch.exp(one[j]) for j in over)
        for j in best:
            found[row, j] = torch.exp(one[j]) / total
    return found


@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from(["selected", "all"]))
def test_the_gate(seed, top_k, norm):
    scores = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    got = sparse_gate(scores, top_k, norm)
    assert (got - naive_gate(scores, top_k, norm)).abs().max() <= 1e-12
    assert (got != 0).sum(dim=1).tolist() == [top_k] * 3
    assert torch.autograd.gradcheck(lambda s: sparse_gate(s, top_k, norm), scores.requires_grad_())


@pytest.mark.parametrize("gate_input", ["first", "mean_prompt", "token"])
@pytest.mark.parametrize("norm", ["selected", "all"])
def test_the_layer_is_the_formula(gate_input, norm):
    """``y = W x + s sum_j w_j B_j A x``; the gate reads the first attended token, the prompt's mean, or each token."""
    config = BranchLoRAConfig(branches=BRANCHES, top_k=2, gate_input=gate_input, gate_norm=norm)
    module, a, bs, _ = layer(config, state())
    x = torch.randn(3, 5, IN, dtype=torch.float64)
    truth = torch.zeros(3, 5, OUT, dtype=torch.float64)
    for row, first in enumerate(FIRST):
        for at in range(5):
            read = {"first": x[row, first], "mean_prompt": x[row, first:ANSWER].mean(0), "token": x[row, at]}[
                gate_input
            ]
            w = naive_gate((module.cl_router @ read)[None], 2, norm)[0]
            truth[row, at] = module.weight @ x[row, at] + module.bias
            truth[row, at] += SCALING * sum(w[j] * bs[j] @ (a @ x[row, at]) for j in range(BRANCHES))
    assert (module(x) - truth).abs().max() <= 1e-9 * truth.abs().max()


@pytest.mark.parametrize("gate_input", ["first", "mean_prompt", "token"])
def test_gradients_reach_trunk_branches_router_and_input(gate_input):
    config = BranchLoRAConfig(branches=BRANCHES, top_k=3, gate_input=gate_input)
    module, *_ = layer(config, state())
    x = torch.randn(3, 5, IN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *rest: module(x), (x, module.cl_a, module.cl_b, module.cl_router))
    assert module.cl_b.shape == (OUT, 3 * RANK)
    assert module.cl_past_b.shape == (OUT, RANK)
    assert not module.cl_past_b.requires_grad


@pytest.mark.parametrize("gate_input", ["first", "mean_prompt"])
def test_what_is_chosen_at_the_prompt_holds_for_the_next_tokens(gate_input):
    config = BranchLoRAConfig(branches=BRANCHES, top_k=2, gate_input=gate_input)
    rows = state()
    module, a, bs, gate = layer(config, rows)
    module(torch.randn(3, 5, IN, dtype=torch.float64))
    weights = rows.current.kept["gate:layer"]
    gate._state = state(fresh=False, kept=rows.current.kept)
    x = torch.randn(3, 1, IN, dtype=torch.float64)
    truth = x @ module.weight.T + module.bias
    truth += SCALING * sum(weights[:, j, None, None] * (x @ a.T @ bs[j].T) for j in range(BRANCHES))
    assert (module(x) - truth).abs().max() <= 1e-9 * truth.abs().max()


@pytest.mark.parametrize("gate_input", ["first", "token"])
def test_every_row_takes_the_router_of_its_task(gate_input):
    config = BranchLoRAConfig(branches=BRANCHES, top_k=2, gate_input=gate_input)
    x = torch.randn(3, 5, IN, dtype=torch.float64)
    mixed = layer(config, state(tasks=(2, 0, 1)), routers=3)[0](x)
    for row, task in enumerate((2, 0, 1)):
        alone = layer(config, state(tasks=(task,) * 3), routers=3)[0](x)
        assert torch.allclose(mixed[row], alone[row], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(mixed[row], layer(config, state(tasks=((task + 1) % 3,) * 3), routers=3)[0](x)[row])


def test_a_layer_that_does_not_see_the_prompt_is_an_error():
    module, *_ = layer(BranchLoRAConfig(branches=BRANCHES), state())
    with pytest.raises(CompatibilityError, match="lora_target"):
        module(torch.randn(3, 7, IN, dtype=torch.float64))


@pytest.mark.parametrize("by", ["probability", "selection"])
def test_usage_is_a_mean_over_rows(by):
    scores = torch.randn(7, 4, dtype=torch.float64)
    usage = Usage()
    usage.add(scores[:2], 2, by)
    usage.add(scores[2:], 2, by)
    if by == "probability":
        truth = torch.stack([s.exp() / s.exp().sum() for s in scores]).mean(0)
    else:
        truth = torch.stack([(naive_gate(s[None], 2, "selected")[0] > 0).double() / 2 for s in scores]).mean(0)
    assert (usage.total / usage.count - truth).abs().max() <= 1e-12
    assert float(usage.total.sum() / usage.count) == pytest.approx(1)


def test_the_most_used_branches_are_frozen():
    usage, before = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([True, False, False, False])
    assert frozen_after(usage, before, 2, among_all=True).tolist() == [True, True, False, False]
    assert frozen_after(usage, before, 2, among_all=False).tolist() == [True, True, True, False]
    assert frozen_after(usage, before, 0, among_all=True).tolist() == before.tolist()
    everything = torch.ones(4, dtype=torch.bool)
    assert frozen_after(usage, everything, 2, among_all=False).tolist() == [True] * 4
    assert frozen_after(torch.full((4,), 0.25), ~everything, 2, among_all=True).tolist() == [True, True, False, False]
    assert before.tolist() == [True, False, False, False]  # not written to


@pytest.mark.parametrize("shared", [True, False])
def test_frozen_branches_keep_their_bits_and_their_places(shared):
    config = BranchLoRAConfig(branches=3, top_k=2, shared_trunk=shared)
    trunks = 1 if shared else 3
    before = {"m.cl_a": torch.randn(2 * trunks, IN), "m.cl_b": torch.randn(OUT, 6), "m.cl_router": torch.randn(3, IN)}
    past = Past(before, {"m": torch.tensor([False, True, False])})
    live = 1 if shared else 2
    learned = {"m.cl_a": torch.randn(2 * live, IN), "m.cl_b": torch.randn(OUT, 4), "m.cl_router": torch.randn(3, IN)}
    learned |= {"cl_key_text": torch.randn(3), "projector.weight": torch.randn(2, 2)}
    got = joined(learned, past, config, 2)
    assert torch.equal(got["m.cl_b"][:, 2:4], before["m.cl_b"][:, 2:4])
    assert torch.equal(got["m.cl_b"][:, :2], learned["m.cl_b"][:, :2])
    assert torch.equal(got["m.cl_b"][:, 4:], learned["m.cl_b"][:, 2:])
    if shared:
        assert torch.equal(got["m.cl_a"], learned["m.cl_a"])
    else:
        assert torch.equal(got["m.cl_a"][2:4], before["m.cl_a"][2:4])
        assert torch.equal(got["m.cl_a"][4:], learned["m.cl_a"][2:])
    assert torch.equal(got["m.cl_router"], learned["m.cl_router"])
    assert set(got) == {"m.cl_a", "m.cl_b", "m.cl_router", "projector.weight"}


def test_a_task_that_could_train_no_branch_leaves_them_all():
    config = BranchLoRAConfig(branches=2, top_k=2)
    before = {"m.cl_a": torch.randn(2, IN), "m.cl_b": torch.randn(OUT, 4), "m.cl_router": torch.randn(2, IN)}
    past = Past(before, {"m": torch.tensor([True, True])})
    learned = {"m.cl_a": torch.randn(2, IN), "m.cl_router": torch.randn(2, IN)}
    got = joined(learned, past, config, 2)
    assert torch.equal(got["m.cl_b"], before["m.cl_b"])
    assert torch.equal(got["m.cl_a"], learned["m.cl_a"])
