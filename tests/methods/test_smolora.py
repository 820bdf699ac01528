"""SMoLoRA: the layer against fp64 arithmetic, gates that learn, rows that keep their experts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from peft import LoraConfig
from row_prompts import answers, batch, pixels, prompts
from running import NO_TESTS, go, recipe
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from cl_plugins.adapters.bank import Expert, Experts, attach
from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.row_features import places_of
from cl_plugins.adapters.rows import state_of
from cl_plugins.base.errors import RecipeError
from cl_plugins.callbacks.learner import PlainBase
from cl_plugins.contract.task import TaskContext
from cl_plugins.methods.registry import make_method
from cl_plugins.methods.smolora.gate import SeparateGate, hard_gate
from cl_plugins.streams import Task


IN, OUT, RANK, EXPERTS, HIDDEN, SCALING = 6, 5, 2, 4, 3, 2.0
LINEAR = r".*language_model.*\.(q_proj|v_proj|down_proj)"


def layer(learn=1.0, seed=0):
    """A linear layer in fp64 with four experts, and three rows of which two are padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    base = HeldBase(model)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    for name, shape in (("visual_router", (2, IN)), ("instruction_router", (2, HIDDEN)), ("fusion", (2, IN))):
        base.register(f"layer.cl_{name}", draw(*shape), trained=True)
    prompt = torch.tensor([[i >= first and i < 4 for i in range(5)] for first in (0, 2, 1)])
    kept = {"instruction": draw(3, HIDDEN).double()}
    rows = SimpleNamespace(
        ids=torch.zeros(3, 5), prompt=prompt, prompt_places=places_of(prompt), fresh=True, kept=kept
    )
    state = SimpleNamespace(off=False, current=rows)
    experts = [Expert(draw(OUT, RANK), i, SCALING, trained=True) for i in range(EXPERTS)]
    trunks = [draw(RANK, IN) for _ in range(EXPERTS)]
    gate = SeparateGate("layer", model["layer"], state, learn)
    attach(base, {"layer": Experts(trunks, experts, [True] * EXPERTS, gate)})
    return model["layer"].double(), rows


def truth(module, rows, x, choice=None):
    """``W x + s (f_1 B_v A_v x + f_2 B_i A_i x)``, row by row and token by token."""
    y = x @ module.weight.T + module.bias
    for row in range(len(x)):
        shown = module.cl_visual_router @ x[row][rows.prompt[row]].mean(0) if choice is None else None
        v = int(shown.argmax()) if choice is None else choice[row][0]
        i = int((module.cl_instruction_router @ rows.kept["instruction"][row]).argmax())
        for at in range(x.shape[1]):
            f = torch.softmax(module.cl_fusion @ x[row, at], dim=0)
            for share, e in zip(f, (v, 2 + i), strict=True):
                a, b = module.cl_a[e * RANK : (e + 1) * RANK], module.cl_b[:, e * RANK : (e + 1) * RANK]
                y[row, at] = y[row, at] + SCALING * share * (b @ (a @ x[row, at]))
    return y


@pytest.mark.parametrize("seed", range(4))
def test_the_layer_is_the_formula(seed):
    module, rows = layer(seed=seed)
    x = torch.randn(3, 5, IN, dtype=torch.float64)
    expected = truth(module, rows, x)
    assert (module(x) - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_the_next_token_is_computed_by_the_experts_of_the_prompt():
    module, rows = layer()
    module(torch.randn(3, 5, IN, dtype=torch.float64))
    chosen = [(int(k[0].argmax()), int(k[1].argmax())) for k in rows.kept["gate:layer"]]
    rows.fresh = False
    x = torch.randn(3, 1, IN, dtype=torch.float64) * 10
    expected = truth(module, rows, x, chosen)
    assert (module(x) - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_a_hard_gate_is_one_hot_and_has_the_gradient_of_the_softmax():
    scores = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64)
    gate = hard_gate(scores, 1.0)
    assert torch.allclose(gate, torch.nn.functional.one_hot(scores.argmax(1), 3).double(), atol=1e-15)
    ours = torch.autograd.grad((gate * weight).sum(), scores)[0]
    soft = torch.autograd.grad((torch.softmax(scores, 1) * weight).sum(), scores)[0]
    assert (ours - soft).abs().max() <= 1e-12
    peer = torch.autograd.grad((hard_gate(scores, 0.0) * weight).sum(), scores)[0]
    assert torch.equal(peer, torch.zeros_like(peer))


def test_gradients_reach_experts_fusion_and_input():
    """With routers that stay: the gradient of a hard gate is not that of its value."""
    module, _ = layer(learn=0.0)
    x = torch.randn(3, 5, IN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *rest: module(x), (x, module.cl_a, module.cl_b, module.cl_fusion))


@pytest.fixture(scope="module")
def routed(llava):
    """A model with strong experts, so that another choice is another answer."""
    model = LlavaForConditionalGeneration.from_pretrained(llava)
    base = PlainBase(model, LoraConfig(r=8, lora_alpha=8, target_modules=LINEAR))
    method = make_method("smolora", {"experts": 8})
    method.begin_task(TaskContext(Task("one"), 1, 7, base, None), model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.rpartition(".")[2].startswith("cl_"):
                p.copy_(torch.randn(p.shape, generator=generator))
    return model.eval(), state_of(model)


def test_rows_alone_in_a_batch_with_and_without_pictures_and_cache(routed):
    model, state = routed
    rows = prompts(9, lambda i: i % 3)
    seen = pixels(rows)
    together = answers(model, state, rows, seen)[0]
    with state.recording() as kept, torch.no_grad():
        model(**batch(rows, seen))
    name = next(n for n in kept[0] if n.startswith("gate:"))
    assert len({tuple(k.argmax(-1).tolist()) for k in kept[0][name]}) > 1  # rows differ in their experts
    for row, one, answer in zip(rows, seen, together, strict=True):
        assert answers(model, state, [row], [one])[0] == [answer]
    assert answers(model, state, rows, seen, use_cache=False)[0] == together


@pytest.mark.parametrize("faithful", [None, "peer"])
def test_routers_learn_unless_they_are_the_peers(llava, data, tmp_path, faithful):
    found = []
    for steps in (1, 5):
        method = {"name": "smolora", "experts": 4, "faithful": faithful}
        out = tmp_path / str(steps)
        go(tiny.recipe(llava, data, out, method, ("one",), max_steps=steps, learning_rate=1e-2, cl=dict(NO_TESTS)))
        found.append(load_file(out / "tasks" / "01_one" / "update.safetensors"))
    moved = {n: not torch.equal(found[0][n], found[1][n]) for n in found[0] if n.endswith("_router")}
    assert moved
    assert set(moved.values()) == {faithful is None}
    assert all(not torch.equal(found[0][n], found[1][n]) for n in found[0] if n.endswith(("cl_fusion", "cl_b")))


def test_an_odd_number_of_experts_is_refused(llama, text_data, tmp_path):
    with pytest.raises(RecipeError, match=r"experts.*half are visual"):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", {"name": "smolora", "experts": 1 + 2}))
