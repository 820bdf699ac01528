"""Gradient checkpointing under the methods that put more on the model than PEFT's LoRA: what is learned is the same.

Layers are computed again for the backward pass, and their gates with them: with the gradient of the routers, for the rows of their own forward,
under the same dropout.
"""

from __future__ import annotations

import pytest
import tiny
import torch
from method_cases import case_of
from running import NO_TESTS, go
from safetensors.torch import load_file


SGD = {"optim": "sgd", "learning_rate": 1.0}
DROPOUT = {"lora_dropout": 0.2}
#: Case -> options beside its own, and LLaMA-Factory's keys.
GIVEN = {
    "moelora": ({}, DROPOUT),
    "branchlora": ({"gate_input": "mean_prompt"}, {**DROPOUT, **SGD}),
    "smolora": ({}, {**DROPOUT, **SGD}),
    "hide": ({}, DROPOUT),
    "osf": ({}, {}),
    "l2p": ({}, {}),
    "modalprompt": ({}, {}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_gradient_checkpointing_changes_nothing(llava, data, tmp_path, name):
    case, (options, keys) = case_of(name), GIVEN[name]
    found = []
    for off in (True, False):
        out = tmp_path / str(off)
        more = {"disable_gradient_checkpointing": off, "max_steps": 2, "cl": {**NO_TESTS, **case.block}, **keys}
        go(tiny.recipe(llava, data, out, case.given(options), ("one",), **more))
        found.append(load_file(out / "tasks" / "01_one" / "update.safetensors"))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], rtol=1e-4, atol=1e-6), key
