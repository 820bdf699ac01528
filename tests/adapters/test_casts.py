"""An engine that casts the base in training, as DeepSpeed does in bf16: `reset` gives dtypes and values back, bit for bit."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.base.errors import RunStateError


class Base(HeldBase):
    """One whose weights can be read again."""

    def __init__(self, model, folder):
        super().__init__(model)
        self._folder = folder

    def _find_files(self):
        file = self._folder / "model.safetensors"
        with safe_open(file, framework="pt") as handle:
            return {name: (str(file), name) for name in handle.keys()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_reset_undoes_a_cast_of_the_whole_model(llama, tmp_path, dtype, tied):
    folder = tmp_path / "base"
    config = AutoConfig.from_pretrained(llama, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    assert any("inv_freq" in name for name in before)
    base = Base(model, folder)
    model.to(dtype)
    base.reset()
    after = dict([*model.named_parameters(), *model.named_buffers()])
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], value), name
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_half_a_cast_is_undone_and_the_rest_left_alone(llama):
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    base = Base(model, llama)
    kept = model.model.layers[0].self_attn.q_proj.weight
    wanted, place = kept.clone(), kept.data_ptr()
    model.lm_head.to(torch.bfloat16)
    base.reset()
    assert model.lm_head.weight.dtype == torch.float32
    assert torch.equal(kept, wanted)
    assert kept.data_ptr() == place


def test_what_cannot_be_read_again_is_an_error(llama):
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    base = HeldBase(model)
    model.to(torch.bfloat16)
    with pytest.raises(RunStateError, match=r"is torch\.bfloat16 instead of torch\.float32"):
        base.reset()
