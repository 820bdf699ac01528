"""An adapter on a weight that two modules share is refused; full fine-tuning of it is not."""

from __future__ import annotations

import pytest

from cl_plugins.adapters.ties import trained_apart
from cl_plugins.base.errors import CompatibilityError
from cl_plugins.callbacks.learner import PlainBase


def model(tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=tied, **sizes))


def lora(**keys):
    from peft import LoraConfig

    return LoraConfig(r=2, **{"target_modules": ["q_proj"], **keys})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ],
)
def test_a_custom_trainer_hears_of_it(keys, named):
    with pytest.raises(CompatibilityError, match=f"trains .*{named}.*tied embeddings"):
        PlainBase(model(tied=True), lora(**keys)).new_adapter()
    PlainBase(model(tied=False), lora(**keys)).new_adapter()


def test_what_does_not_touch_them_is_taken():
    base = model(tied=True)
    assert trained_apart(base) == []
    assert trained_apart(PlainBase(base, lora()).new_adapter()) == []
