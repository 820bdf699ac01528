"""The smallest allowed value of every numeric option: it passes, and the next smaller one is refused with its path."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from cl_plugins.base.errors import RecipeError
from cl_plugins.config import CLBlock
from cl_plugins.methods.registry import get_method, make_method, method_names
from cl_plugins.recipe import parse_cl


BLOCK = {
    "eval.max_new_tokens": 1,
    "eval.max_items": 1,
    "replay.capacity_per_task": 0,
    "replay.capacity_total": 0,
    "replay.candidates": 1,
    "replay.weight": 0,
    "replay.batch": 1,
    "stop_after": 1,
}
WITHOUT_A_BOUND = {"order_seed", "replay.ratio"}  # any seed; a ratio lies between two bounds, see `replay.checks`


def below(smallest):
    return smallest - 1 if isinstance(smallest, int) else smallest * 0.999 - 1e-6


def numeric(cls, prefix=""):
    """The names of all options that are numbers, nested ones included."""
    for field in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        kinds = {hint, *typing.get_args(hint)}
        if dataclasses.is_dataclass(hint):
            yield from numeric(hint, f"{prefix}{field.name}.")
        elif kinds & {int, float} and not kinds & {bool, str}:
            yield f"{prefix}{field.name}"


#: Other options without which the smallest value of an option is refused.
WITH = {
    ("branchlora", "branches"): {"top_k": 1, "gate_norm": "all"},
    ("branchlora", "top_k"): {"gate_norm": "all"},
    ("clmoe", "experts"): {"top_experts": 1, "top_ids": 1},
    ("l2p", "pool_size"): {"top_k": 1},
}


def of_methods():
    """(method, option, smallest allowed value) of every number; a new method's are found here."""
    for name in method_names():
        config = get_method(name).config_class
        for field in dataclasses.fields(config):
            if field.name in set(numeric(config)):
                yield name, field.name, field.metadata["minimum"]


def block(path, value):
    made = {
        "stream": {"name": "s", "tasks": [{"name": "a", "train": "a_train", "test": "a_test"}]},
        "method": {"name": "seqlora"},
    }
    *outer, key = path.split(".")
    inner = made
    for name in outer:
        inner = inner.setdefault(name, {})
    inner[key] = value
    return made


def test_no_number_is_forgotten():
    assert set(numeric(CLBlock)) == BLOCK.keys() | WITHOUT_A_BOUND
    assert len(list(of_methods())) > 8


@pytest.mark.parametrize(("path", "smallest"), BLOCK.items(), ids=BLOCK)
def test_of_the_block(path, smallest):
    parse_cl(block(path, smallest))
    with pytest.raises(RecipeError, match=rf"cl\.{path}: is .* The smallest allowed value is {smallest}\b"):
        parse_cl(block(path, below(smallest)))


def test_of_a_task():
    made = block("stop_after", 1)
    made["stream"]["tasks"][0]["max_new_tokens"] = 1
    parse_cl(made)
    made["stream"]["tasks"][0]["max_new_tokens"] = 0
    with pytest.raises(RecipeError, match=r"tasks\[0\]\.max_new_tokens: is 0"):
        parse_cl(made)


@pytest.mark.parametrize(("name", "key", "smallest"), list(of_methods()))
def test_of_a_method(name, key, smallest):
    """Weights, shares and counts: none of them is negative."""
    assert smallest is not None
    assert smallest >= 0
    more = WITH.get((name, key), {})
    assert getattr(make_method(name, {**more, key: smallest}).config, key) == smallest
    with pytest.raises(RecipeError, match=rf"{key}: is .* The smallest allowed value is {smallest}"):
        make_method(name, {key: below(smallest)})
