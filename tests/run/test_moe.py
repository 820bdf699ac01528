"""A mixture of experts whose routers' loss joins the training (`moe_aux_loss_coef`): answers are made without it."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from running import go, load, recipe


FIELDS = ("output_router_logits", "router_aux_loss_coef")


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    """Makes the folder of a tiny mixture of experts, whose config asks for the logits of its routers or not."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    def build(asks):
        folder = tmp_path_factory.mktemp("moe")
        tokenizer = tiny.build_tokenizer()
        torch.manual_seed(0)
        config = Qwen3MoeConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2,
            max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=3, output_router_logits=asks,
        )  # fmt: skip
        Qwen3MoeForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return build


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("coefficient", [None, 0.5])
def test_answers_are_made_without_the_loss_of_the_routers(asks, coefficient, moe, text_data, tmp_path):
    import cl_plugins

    base, more = moe(asks), {"moe_aux_loss_coef": coefficient} if coefficient else {}
    block = {"eval": {"zero_shot": True, "max_new_tokens": 3, "max_items": 2}}
    go(recipe(base, text_data, tmp_path / "run", "inclora", ("one",), cl=block, **more))
    go(recipe(moe(False), text_data, tmp_path / "plain", "inclora", ("one",), cl=block))
    before = [(tmp_path / name / "predictions/zero_shot/one.jsonl").read_text() for name in ("run", "plain")]
    assert before[0] == before[1]
    configs = [json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "run" / "final")]
    assert [configs[0].get(name) for name in FIELDS] == [configs[1].get(name) for name in FIELDS]
    history = load(tmp_path / "run", "tasks/01_one/trainer_state.json")["log_history"][0]
    plain = load(tmp_path / "plain", "tasks/01_one/trainer_state.json")["log_history"][0]
    assert (history["loss"] > plain["loss"]) is bool(asks or coefficient)  # and it is learned from
    opened = cl_plugins.load(tmp_path / "run")
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    assert opened.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2).shape[0] == 2


def test_the_code_of_the_card_answers_with_a_base_that_asks_for_them(moe, text_data, tmp_path, monkeypatch):
    import re

    go(recipe(moe(True), text_data, tmp_path / "run", "seqlora", ("one",), cl={"eval": {"scope": "none"}}))
    folder = tmp_path / "run" / "final"
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["answer"].shape[1] > names["inputs"]["input_ids"].shape[1]
