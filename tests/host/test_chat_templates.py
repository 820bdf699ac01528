"""The chat template in `final/` asks as the run does: with every template of the host, with and without thinking."""

from __future__ import annotations

import copy

import pytest
from running import NO_TESTS, go, recipe

from cl_plugins.host import chats
from cl_plugins.host.chat_template import chat_template


QUESTION = "What colour is this?"


@pytest.fixture(scope="module")
def templates():
    from llamafactory.data.template import TEMPLATES

    return TEMPLATES


@pytest.fixture
def tokenizer():
    """Of bytes, so that every template's words are tokens of some kind."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def thinking(template, value):
    found = copy.copy(template)
    found.enable_thinking = value
    return found


def names(templates):
    from llamafactory.data.template import ReasoningTemplate

    return sorted(name for name, template in templates.items() if isinstance(template, ReasoningTemplate))


@pytest.mark.parametrize("value", [True, False, None])
def test_with_and_without_thinking(value, templates, tokenizer):
    reasoning = names(templates)
    assert {"qwen3", "deepseekr1", "glm4_moe", "gpt_oss"} <= set(reasoning)
    for name in reasoning:
        template = thinking(templates[name], value)
        template.fix_special_tokens(tokenizer)
        found = chat_template(template, tokenizer, None)
        expected = (
            ["questions whose reference has a thought"] if value is None else []
        )  # those are asked without the empty one
        assert chats.differences(template, tokenizer, found) == expected, name
        assert found.startswith("{# cl_plugins") is bool(expected), name
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}], chat_template=found, tokenize=False, add_generation_prompt=True
        )
        assert text.endswith(template.add_thought()) is (not value), name


def test_the_bases_own_template_stays_where_it_asks_alike(templates, tokenizer):
    template = thinking(templates["qwen3"], True)
    turn = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    thoughtless = turn.replace("m['content']", "m['content'].split('</think>')[-1].lstrip('\\n')")
    start = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    texts = "{% for m in messages %}{% if m['content'] is not string %}{% set m = {'role': m['role'], 'content': m['content'][0]['text']} %}{% endif %}"
    for each, stays in ((thoughtless, True), (turn, False)):
        tokenizer.chat_template = texts + each + "{% endfor %}" + start
        template.fix_special_tokens(tokenizer)
        assert (chat_template(template, tokenizer, None) == tokenizer.chat_template) is stays
    assert chat_template(thinking(template, False), tokenizer, None) != tokenizer.chat_template


def test_a_system_message_with_a_backslash_is_the_hosts(templates, tokenizer):
    template = copy.copy(templates["qwen"])
    template.default_system = r"Write it's \frac{1}{2} and \n."
    found = chat_template(template, tokenizer, None)
    text = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], chat_template=found, tokenize=False)
    assert template.default_system in text
    assert chats.differences(template, tokenizer, found) == []


def test_a_base_whose_template_cannot_be_translated_keeps_its_own_which_says_so(templates, tokenizer, heard):
    template = copy.copy(templates["qwen"])

    def fail(tokenizer):
        raise ValueError("Dict is not supported.")

    template._get_jinja_template = fail
    tokenizer.chat_template = None
    assert chat_template(template, tokenizer, None) is None
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    found = chat_template(template, tokenizer, None)
    assert found.endswith(tokenizer.chat_template)
    assert found.startswith("{# cl_plugins: other token ids than the prompts of the run for every question #}")
    assert "gives other token ids than the prompts of the run for every question;" in heard.text


@pytest.mark.parametrize("value", [False, None])
def test_the_card_shows_and_runs_the_prompt_of_the_run(value, llama, text_data, tmp_path):
    from transformers import AutoTokenizer

    go(recipe(llama, text_data, tmp_path / "run", "seqlora", ("one",), cl=NO_TESTS, max_steps=1, template="deepseekr1", enable_thinking=value))  # fmt: skip
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "<think>\n\n</think>" in card
    assert "gives other token ids than the run has asked with for every question." in card  # this tokenizer has no '<'
    reader = AutoTokenizer.from_pretrained(tmp_path / "run" / "final")
    text = reader.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False)
    assert text.endswith("<think>\n\n</think>\n\n")
