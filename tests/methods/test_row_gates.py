"""What a gate that is fixed at the prompt reads: `cl_plugins.methods.row_gates`."""

from __future__ import annotations

import pytest
import torch

from cl_plugins.adapters.row_features import Rows
from cl_plugins.methods.row_gates import first_token, prompt_mean


#: Padding left, right, within and none; the last two tokens of the second row are an answer.
ATTENDED = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
LABELS = torch.full((4, 6), -100)
LABELS[1, 3:5] = 7
PLACES = [[2, 3, 4, 5], [0, 1, 2], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]]


def rows_of(attended=ATTENDED, labels=LABELS):
    inputs = {"input_ids": torch.ones_like(attended), "attention_mask": attended, "labels": labels}
    return Rows(None, inputs, True, {})


def values(dtype=torch.float64):
    return torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_the_mean_is_over_the_prompt_alone():
    inputs, mean = values(), prompt_mean(values(), rows_of())
    for row, places in enumerate(PLACES):
        naive = [sum(float(inputs[row, at, i]) for at in places) / len(places) for i in range(3)]
        assert mean[row].tolist() == pytest.approx(naive, abs=1e-12)


def test_the_gradient_of_the_mean():
    inputs = values().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: prompt_mean(x, rows_of()), (inputs,))
    assert torch.autograd.gradgradcheck(lambda x: prompt_mean(x, rows_of()), (inputs,))


def test_padding_and_the_other_rows_change_no_bit():
    inputs = values(torch.float32)
    whole = prompt_mean(inputs, rows_of())
    for row, places in enumerate(PLACES):
        kept = inputs[row : row + 1, places]
        ones = torch.ones(1, len(places), dtype=torch.long)
        alone = prompt_mean(kept, rows_of(ones, torch.full_like(ones, -100)))
        assert torch.equal(alone[0], whole[row])


def test_half_precision_is_summed_in_fp32_and_its_gradient_keeps_its_type():
    inputs = values(torch.bfloat16).requires_grad_()
    mean = prompt_mean(inputs, rows_of())
    assert mean.dtype == torch.float32
    mean.sum().backward()
    assert inputs.grad.dtype == torch.bfloat16
    assert inputs.grad[0, 2].tolist() == [0.25] * 3
    assert not inputs.grad[0, :2].any()


def test_the_first_token_is_no_padding():
    assert torch.equal(first_token(values(), rows_of()), values()[torch.arange(4), torch.tensor([2, 0, 0, 0])])
