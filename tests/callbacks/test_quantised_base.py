"""What a method puts on a quantised base is an adapter to the trainer; a bare quantised base stays refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.trainer_utils import validate_quantization_for_training

from cl_plugins.training.extras import counted_as_adapters


def quantised(own):
    model = torch.nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    model.bias.requires_grad_(not own)
    if own:
        model.register_parameter("cl_a", torch.nn.Parameter(torch.zeros(1, 2)))
    model.is_quantized = True
    model.hf_quantizer = SimpleNamespace(is_trainable=True, is_qat_trainable=False)
    return model


def test_own_parameters_count_as_an_adapter_while_the_trainer_is_made():
    model = quantised(own=True)
    with counted_as_adapters(model):
        validate_quantization_for_training(model)
    assert "_hf_peft_config_loaded" not in vars(model)
    with pytest.raises(ValueError, match="purely quantized"):
        validate_quantization_for_training(model)


def test_the_mark_goes_when_the_trainer_cannot_be_made():
    model = quantised(own=True)
    with pytest.raises(RuntimeError), counted_as_adapters(model):
        raise RuntimeError
    assert "_hf_peft_config_loaded" not in vars(model)


def test_a_bare_quantised_base_stays_refused():
    model = quantised(own=False)
    with counted_as_adapters(model), pytest.raises(ValueError, match="purely quantized"):
        validate_quantization_for_training(model)


@pytest.mark.parametrize("model", [None, torch.nn.Linear(2, 2)])
def test_without_quantisation_nothing_is_marked(model):
    with counted_as_adapters(model):
        assert model is None or "_hf_peft_config_loaded" not in vars(model)
