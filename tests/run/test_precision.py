"""What a run says of a precision that the machine computes slowly."""

from __future__ import annotations

import logging

import pytest
import torch
from running import go, recipe

from cl_plugins.base.logs import logger, set_up
from cl_plugins.run import precision


def model(dtype):
    return torch.nn.Linear(2, 2, dtype=dtype)


@pytest.mark.parametrize(
    ("keys", "stored", "fast", "said"),
    [
        ({"bf16": True, "use_cpu": True}, torch.float32, False, "trains without `bf16: true`"),
        ({"bf16": True, "use_cpu": True}, torch.float32, True, ""),
        ({"use_cpu": True}, torch.float32, False, ""),
        ({"use_cpu": True}, torch.bfloat16, False, "store the base in fp32 (`model.to"),
        ({"bf16": True, "use_cpu": True}, torch.bfloat16, False, "and leave out `bf16: true`"),
        ({"use_cpu": True, "finetuning_type": "full"}, torch.bfloat16, False, ""),  # LLaMA-Factory makes it fp32
        ({"use_cpu": True}, torch.bfloat16, True, ""),
    ],
)
def test_bf16_on_a_processor_without_it_is_said_to_be_slow(monkeypatch, keys, stored, fast, said):
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda: fast)
    lines = precision.slow_precision(keys, model(stored))
    assert [line.count(said) for line in lines] == ([1] if said else [])


@pytest.mark.parametrize("keys", [{"bf16": True}, {}])
@pytest.mark.parametrize("cards", [True, False])
def test_nothing_is_said_where_a_card_computes(monkeypatch, keys, cards):
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert bool(precision.slow_precision(keys, model(torch.bfloat16))) is not cards


def test_pytorch_says_whether_it_has_kernels(monkeypatch):
    assert precision._multiplies_bf16() is torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert precision._multiplies_bf16()


def test_the_run_says_it_before_it_trains(llama, text_data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda: False)
    set_up()  # once per process: it turns the propagation off
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="cl_plugins"):
        go(recipe(llama, text_data, tmp_path, cl={"stop_after": 1, "eval": {"scope": "none"}}, bf16=True, max_steps=1))
    said = [record.getMessage() for record in caplog.records]
    slow = next(number for number, text in enumerate(said) if "instructions for bf16" in text)
    assert slow < next(number for number, text in enumerate(said) if "optimizer steps in" in text)
