"""A few values of every tensor show that a base was changed; what cannot be compared is left out."""

from __future__ import annotations

import pytest
import torch

from cl_plugins.adapters.values import Values


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.LayerNorm(48), torch.nn.Linear(48, 1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_added_update_is_seen_in_every_tensor(dtype):
    made = model(dtype)
    values = Values.of(made)
    assert values.changed(made) == []
    for name, parameter in made.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.25)
        assert values.changed(made) == [name]
        parameter.data = before
    assert values.changed(made) == []
    assert values.sha256() == Values.of(model(dtype)).sha256()


@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_values_come_from_several_columns(column):
    made = torch.nn.Linear(4, 64)
    values = Values.of(made)
    with torch.no_grad():
        made.weight[:, column] += 1
    assert values.changed(made) == ["weight"]


def test_another_shape_is_a_change():
    made = torch.nn.Embedding(10, 4)
    values = Values.of(made)
    made.weight.data = torch.cat([made.weight.data, made.weight.data[:1]])
    assert values.changed(made) == ["weight"]


def test_what_is_not_a_number_equals_itself():
    made = torch.nn.Linear(2, 2)
    made.weight.data[0, 0] = float("nan")
    assert Values.of(made).changed(made) == []


def test_quantised_and_absent_tensors_are_left_out():
    made = torch.nn.Module()
    made.register_parameter("packed", torch.nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False))
    made.register_parameter("absent", torch.nn.Parameter(torch.zeros(8, device="meta")))
    made.register_parameter("split", torch.nn.Parameter(torch.zeros(0)))
    made.split.ds_id = 1
    assert Values.of(made).found == {}
    made.register_parameter("empty", torch.nn.Parameter(torch.zeros(0)))
    values = Values.of(made)
    made.packed.data += 1
    assert values.changed(made) == []
