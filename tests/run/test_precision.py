"""What a run says of a precision that the machine computes slowly."""

from __future__ import annotations

import logging

import pytest
from running import go, recipe

from cl_plugins.base.logs import logger, set_up
from cl_plugins.run import precision


@pytest.mark.parametrize(
    ("keys", "fast", "said"),
    [
        ({"bf16": True, "use_cpu": True}, False, True),
        ({"bf16": True, "use_cpu": True}, True, False),
        ({"bf16": True}, False, False),  # a GPU computes
        ({"use_cpu": True}, False, False),
    ],
)
def test_bf16_on_a_processor_without_it_is_said_to_be_slow(monkeypatch, keys, fast, said):
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda: fast)
    assert bool(precision.slow_precision(keys)) is said


def test_pytorch_says_whether_it_has_kernels(monkeypatch):
    import torch

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
