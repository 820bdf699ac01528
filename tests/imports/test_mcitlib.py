"""`cl-plugins import run`: experts of CoIN and MCITlib (MoELoRA, CL-MoE, HiDe-LLaVA, DISCO)."""

from __future__ import annotations

import authors
import pytest
import torch


EACH, COUNT, TOTAL = 2, 3, 6
ALPHA = 2 * TOTAL
SCALING = ALPHA / TOTAL


def experts(seed=10):
    return [authors.factors(EACH, seed + i) for i in range(COUNT)]


def save(folder, seed, projector, **more):
    return authors.save_experts(
        folder, experts(seed), authors.routers(COUNT, seed), ALPHA, authors.projector_state(projector), **more
    )


def ours(root, task, llava, scratch, after=None):
    with authors.answering(root, task, scratch, after) as model, torch.no_grad():
        return model(**authors.inputs(llava)).logits


def mixture(llava, seed, projector):
    model = authors.load(llava)
    terms = authors.mixture_terms(experts(seed), authors.routers(COUNT, seed), SCALING)
    with (
        authors.with_terms(model, terms),
        authors.with_projector(model, authors.projector_state(projector)),
        torch.no_grad(),
    ):
        return model(**authors.inputs(llava)).logits


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ({"name": "moelora", "experts": COUNT}, "MOE_LORA_CoIN"),
        ({"name": "clmoe", "experts": COUNT, "faithful": "peer"}, "MOE_LORA_CLMoE"),
    ],
)
def test_a_mixture_by_token(make, llava, tmp_path, method, kind):
    theirs = {"one": save(tmp_path / "a", 10, 50, kind=kind), "two": save(tmp_path / "b", 20, 51, kind=kind)}
    code, root = make(method, theirs, lora_rank=TOTAL, lora_alpha=ALPHA)
    assert code == 0
    assert authors.close(ours(root, "two", llava, tmp_path), mixture(llava, 20, 51))
    assert authors.close(ours(root, "one", llava, tmp_path, "one"), mixture(llava, 10, 50))


def test_experts_under_both_of_their_names(make, llava, tmp_path):
    """PEFT without a state dictionary saves ``loraA.0.weight`` and ``loraA.0.mlp.weight``, which are one tensor."""
    folder = save(tmp_path / "a", 10, 50)
    file = folder / "adapter_model.bin"
    state = torch.load(file, weights_only=True)
    state |= {name.replace(".weight", ".mlp.weight"): v for name, v in state.items() if ".lora_A.loraA." in name}
    torch.save(state, file)
    code, root = make(
        {"name": "moelora", "experts": COUNT}, {"one": folder}, ("one",), lora_rank=TOTAL, lora_alpha=ALPHA
    )
    assert code == 0
    assert authors.close(ours(root, "one", llava, tmp_path), mixture(llava, 10, 50))


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ({"name": "moelora", "experts": 2}, {}, "Set `cl.method.experts: 3`"),
        ({"name": "moelora", "experts": 3}, {"lora_rank": 12, "lora_alpha": 24}, "Set `lora_rank: 6`"),
        ("seqlora", {}, "has several experts for each layer"),
        ({"name": "clmoe", "experts": 3}, {}, "keeps what it has measured"),
    ],
)
def test_a_recipe_that_does_not_fit(make, tmp_path, capsys, method, keys, said):
    folder = save(tmp_path / "a", 10, 50)
    code, root = make(method, {"one": folder}, ("one",), **{"lora_rank": TOTAL, "lora_alpha": ALPHA, **keys})
    assert code != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not root.exists()
