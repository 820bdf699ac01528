"""Prompts of a learner's test rows: the tokens that TRL trains on, with the columns that it hands to the chat template."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from cl_plugins.base.errors import DataError
from cl_plugins.callbacks.prompts import Prompts
from cl_plugins.callbacks.rows import read_rows


TEMPLATE = (
    "{{ bos_token }}{% if tools %}{{ 'yes ' * (tools | length) }}{% endif %}"
    "{{ 'no ' if think }}{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{{ ' grey' if add_generation_prompt }}"
)
ROW = {
    "prompt": [{"role": "user", "content": "what colour is this ?"}],
    "completion": [{"role": "assistant", "content": " grey red"}],
}
TOOL = {"type": "function", "function": {"name": "look", "description": "looks"}}


@pytest.fixture
def tokenizer(llama):
    found = AutoTokenizer.from_pretrained(llama)
    found.chat_template = TEMPLATE
    return found


def prompt_of(tokenizer, row):
    rows = read_rows("one", [row])
    return Prompts(tokenizer, tokenizer, lambda _: rows).tokens("one", 0).tolist()


@pytest.mark.parametrize(
    ("more", "longer"),
    [
        ({}, 0),
        ({"tools": [TOOL]}, 1),
        ({"tools": [TOOL, TOOL]}, 2),
        ({"chat_template_kwargs": {"think": True}}, 1),
        ({"tools": [TOOL], "chat_template_kwargs": {"think": True}}, 2),
    ],
)
def test_a_prompt_is_the_one_that_trl_trains_on(llama, tmp_path, tokenizer, more, longer):
    row = ROW | more
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(llama), processing_class=tokenizer, train_dataset=Dataset.from_list([row]),
        args=SFTConfig(output_dir=str(tmp_path), report_to=[], bf16=False, max_steps=1, use_cpu=True),
    )  # fmt: skip
    answer = [*tokenizer.encode("red", add_special_tokens=False), tokenizer.eos_token_id]
    prompt = prompt_of(tokenizer, row)
    assert [*prompt, *answer] == trainer.train_dataset[0]["input_ids"]
    assert len(prompt) == len(prompt_of(tokenizer, ROW)) + longer


def test_a_setting_that_the_template_cannot_take_names_the_row(tokenizer):
    with pytest.raises(DataError, match=r"tests\['one'\]\[0\]: cannot be turned into tokens"):
        prompt_of(tokenizer, ROW | {"chat_template_kwargs": {"tokenize": True}})
    with pytest.raises(DataError, match=r"tests\['one'\]\[0\]: cannot be turned into tokens"):
        prompt_of(tokenizer, ROW | {"chat_template_kwargs": "think"})
