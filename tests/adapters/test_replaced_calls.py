"""A method that stands on a module counts as replaced if it is another one than its class has."""

from __future__ import annotations

import functools
from types import MethodType

import pytest
from torch import nn

from cl_plugins.adapters.structure import Structure
from cl_plugins.base.errors import RunStateError


class Model(nn.Linear):
    """Of no library."""

    def forward(self, values):
        return super().forward(values)


@pytest.fixture
def model():
    return nn.Sequential(Model(2, 2))


def test_the_classs_own_method_that_accelerate_leaves_bound_is_none(model):
    before = Structure.of(model)
    model[0].forward = MethodType(Model.forward, model[0])
    before.check(model)
    wrapper = functools.wraps(Model.forward)(lambda self, values: values)
    wrapper.__module__ = "accelerate.utils"
    model[0].forward = MethodType(wrapper, model[0])
    before.check(model)


def test_another_one_is_found(model):
    before = Structure.of(model)
    model[0].forward = MethodType(lambda self, values: values, model[0])
    with pytest.raises(RunStateError, match="`forward` of '0' is still replaced"):
        before.check(model)
