"""Adapters on disk: several updates as one that plain PEFT loads, and refusals of those that do not fit."""

from __future__ import annotations

import json

import pytest
import torch

from cl_plugins.adapters.concatenate import write_peft_adapter
from cl_plugins.adapters.update import adapter_meta, adapter_state, fill
from cl_plugins.base.errors import CompatibilityError, ExportError, RunStateError
from cl_plugins.contract.low_rank import LowRankUpdate


def model(seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=False
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def adapted(seed, rank, alpha, targets, rslora=False, head=True):
    """An adapter with random values in both factors, and a replaced output layer."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=targets, use_rslora=rslora,
        modules_to_save=["lm_head"] if head else None,
    )  # fmt: skip
    made = get_peft_model(model(), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.2 if "lora_" in name else 0.05))
    return made


def update_of(made):
    return LowRankUpdate.from_state(adapter_state(made), adapter_meta(made))


IDS = torch.arange(24).reshape(2, 12)
# different ranks, scalings and targets, so that no module has the same rank as all the others
CHAIN = [
    (1, 2, 4, ["q_proj", "v_proj"], False),
    (2, 5, 8, ["q_proj", "gate_proj"], True),
    (3, 3, 3, ["v_proj"], False),
]


def test_one_adapter_of_several_updates_gives_the_same_logits_in_plain_peft(tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    updates = [update_of(adapted(*case)) for case in CHAIN]
    reference = model().double()
    for update in updates:
        for name, a in update.a.items():
            weight = reference.get_submodule(name).weight
            weight.data += update.scaling * (update.b[name].double() @ a.double())
    reference.lm_head.weight.data = updates[-1].replaced["lm_head.weight"].double()

    ranks = write_peft_adapter(tmp_path / "adapter", updates, "the-base", ["lm_head"])
    assert set(ranks.values()) == {7, 5} | {5}
    loaded = PeftModel.from_pretrained(model(), tmp_path / "adapter").eval()
    with torch.no_grad():
        got, expected = loaded(IDS).logits, reference(IDS).logits
    assert (got.double() - expected).abs().max() <= 1e-5 * expected.abs().max()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "the-base"
    assert config["modules_to_save"] == ["lm_head"]
    assert "base_model.model.lm_head.weight" in load_file(tmp_path / "adapter" / "adapter_model.safetensors")


def test_an_adapter_of_one_update_is_that_update(tmp_path):
    from peft import PeftModel

    made = adapted(1, 4, 8, ["q_proj"], head=False)
    write_peft_adapter(tmp_path, [update_of(made)], "the-base", [])
    loaded = PeftModel.from_pretrained(model(), tmp_path).eval()
    with torch.no_grad():
        assert (loaded(IDS).logits - made(IDS).logits).abs().max() <= 1e-5


def test_nothing_to_export(tmp_path):
    with pytest.raises(ExportError):
        write_peft_adapter(tmp_path, [], "the-base", [])


@pytest.mark.parametrize("case", CHAIN, ids=["lora", "rslora", "one target"])
def test_state_survives_a_round_trip(case):
    made, other = adapted(*case), adapted(9, *case[1:])
    state = adapter_state(made)
    assert all(name.startswith("base_model.model.") for name in state)
    fill(other, state)
    with torch.no_grad():
        assert torch.equal(other(IDS).logits, made(IDS).logits)
    meta = adapter_meta(made)
    expected = case[2] / (case[1] ** 0.5 if case[4] else case[1])
    assert meta["scaling"] == pytest.approx(expected)


def test_an_adapter_that_does_not_fit_is_refused_and_nothing_is_loaded():
    made = adapted(1, 2, 4, ["q_proj", "v_proj"])
    state = adapter_state(adapted(2, 2, 4, ["q_proj", "v_proj"]))
    before = adapter_state(made)
    missing = dict(list(state.items())[1:])
    extra = {**state, "base_model.model.lm_head.bias": torch.zeros(40)}
    for wrong, count in ((missing, "1 are missing, 0 unknown"), (extra, "0 are missing, 1 unknown")):
        with pytest.raises(RunStateError, match=count):
            fill(made, wrong)
    assert all(torch.equal(before[name], value) for name, value in adapter_state(made).items())


def test_an_adapter_of_another_rank_is_refused():
    made = adapted(1, 2, 4, ["q_proj"], head=False)
    with pytest.raises(RunStateError, match="shape"):
        fill(made, adapter_state(adapted(1, 1, 4, ["q_proj"], head=False)))


def test_an_adapter_with_another_scaling_is_refused():
    made, other = adapted(1, 2, 4, ["q_proj"], head=False), adapted(1, 2, 8, ["q_proj"], head=False)
    fill(made, adapter_state(made), adapter_meta(made))
    with pytest.raises(RunStateError, match="lora_alpha"):
        fill(made, adapter_state(other), adapter_meta(other))


def test_what_is_not_a_plain_lora_is_refused():
    state = {"base_model.model.x.lora_magnitude_vector": torch.zeros(3)}
    with pytest.raises(CompatibilityError, match="DoRA"):
        LowRankUpdate.from_state(state, {"scaling": 1.0})
