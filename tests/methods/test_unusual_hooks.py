"""Hooks of other packages that return unusual values, and methods that freeze while they train: nothing is lost in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from running import NO_TESTS, go, load, recipe
from safetensors.torch import load_file

from cl_plugins.base.errors import CompatibilityError, RecipeError, TrainingError
from cl_plugins.base.schema import option
from cl_plugins.contract.carry import CarryWriter
from cl_plugins.contract.method import Method
from cl_plugins.methods import OneLoRA
from cl_plugins.methods.registry import METHODS
from cl_plugins.methods.seqfull import SeqFull
from cl_plugins.training import guards
from cl_plugins.training.extras import extras


class Base(OneLoRA):
    name = "unusual"
    title = "Unusual"


@pytest.fixture
def train(monkeypatch, llama, text_data, tmp_path):
    """Train two tasks with a method."""

    def run(method, **keys):
        monkeypatch.setitem(METHODS.own, method.name, method)
        options = keys.pop("options", {})
        made = recipe(llama, text_data, tmp_path / "run", {"name": method.name, **options}, cl=NO_TESTS, **keys)
        go({key: value for key, value in made.items() if value is not None})
        return tmp_path / "run"

    return run


def test_every_statistic_becomes_a_file(train):
    whole = torch.arange(12.0)
    given = {
        "turned": whole.reshape(3, 4).T,
        "whole": whole,
        "part": whole[2:6],
        "repeated": torch.ones(1, 3).expand(4, 3),
        "every_second": torch.arange(10)[::2],
        "empty": torch.zeros(0, 5),
        "number": torch.tensor(3.5),
        "sparse": torch.eye(3).to_sparse(),
        "trained": torch.ones(2, requires_grad=True),
    }

    class Stats(Base):
        def statistics(self, context, model):
            return {"own": given}

        def consolidate(self, previous, update, writer):
            super().consolidate(previous, update, writer)
            writer.write("own.safetensors", {name: value.detach() for name, value in given.items()})

    out = train(Stats)
    for file in (out / "tasks" / "01_one" / "own.safetensors", out / "carry" / "own.safetensors"):
        found = load_file(file)
        assert found.keys() == given.keys()
        assert all(torch.equal(found[name], given[name].detach().to_dense()) for name in given)


def test_a_carry_takes_turned_and_shared_tensors(tmp_path):
    whole = torch.arange(6.0)
    CarryWriter(tmp_path).write("a.safetensors", {"a": whole.reshape(2, 3).T, "b": whole})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], whole.reshape(2, 3).T)


METHOD = SimpleNamespace(name="lab")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": [1.0]}, r"method 'lab': `statistics\['own'\]` gives 'x': list"),
        ({"x": torch.zeros(2, dtype=torch.complex128)}, r"statistics.*'x' of dtype torch.complex128"),
        ([torch.zeros(2)], r"statistics.*gives list, not a mapping"),
    ],
)
def test_statistics_that_are_none(value, message):
    with pytest.raises(CompatibilityError, match=message):
        guards.check_statistics(METHOD, {"own": value})


def test_numbers():
    given = {"a": 1, "b": torch.tensor(2.5), "c": True, "d": torch.tensor([0.5])}
    assert guards.check_numbers(METHOD, given) == {"a": 1.0, "b": 2.5, "c": 1.0, "d": 0.5}
    with pytest.raises(TrainingError, match="method 'lab': `numbers` reports v = nan"):
        guards.check_numbers(METHOD, {"v": float("nan")})
    for value in ("3", "many", None, torch.zeros(2), 1j, 10**400):
        with pytest.raises(CompatibilityError, match=r"method 'lab': `numbers` gives v = .*no number"):
            guards.check_numbers(METHOD, {"v": value})


def test_what_describe_gives_is_json(train):
    assert guards.plain(METHOD, "describe", {1: (2, 3)}) == {"1": [2, 3]}
    for value in ({"y": float("inf")}, {"y": torch.zeros(1)}, {"y": {1, 2}}, {("a", 1): 1}):
        with pytest.raises(CompatibilityError, match="method 'lab': `describe` gives what JSON cannot represent"):
            guards.plain(METHOD, "describe", value)

    class Infinite(Base):
        def describe(self, context, model):
            return {**super().describe(context, model), "y": float("inf")}

    with pytest.raises(CompatibilityError, match="method 'unusual': `describe`"):
        train(Infinite)


def test_what_a_carry_says_is_json(train):
    class Meta(Base):
        def consolidate(self, previous, update, writer):
            super().consolidate(previous, update, writer)
            writer.meta["own"] = float("nan")

    with pytest.raises(CompatibilityError, match=r"method 'unusual': `writer\.meta` gives"):
        train(Meta)


class Toggle(Base):
    """Freezes one factor of its LoRA in every step."""

    def after_step(self, context, model, *, last):
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)


def test_what_is_frozen_while_training_is_learned_all_the_same(train):
    out = train(Toggle)
    for number, task in ((1, "one"), (2, "two")):
        tensors = load_file(out / "tasks" / f"0{number}_{task}" / "update.safetensors")
        ups = [name for name in tensors if "lora_B" in name]
        assert ups
        assert {name.replace("lora_B", "lora_A") for name in ups} == {n for n in tensors if "lora_A" in n}


def test_gradual_freezing_loses_nothing(train, llama):
    """Full fine-tuning that trains everything for one step, and then its last layer alone."""
    ended = {}

    class Freeze(SeqFull):
        name = "unusual_full"

        def after_step(self, context, model, *, last):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("layers.1." in name)
            if last:
                ended.update({name: p.detach().clone() for name, p in model.named_parameters()})

    keys = {"finetuning_type": "full", "learning_rate": 1e-3, "max_steps": 3}
    out = train(Freeze, **keys, lora_rank=None, lora_target=None)
    final, base = load_file(out / "final" / "model.safetensors"), load_file(llama / "model.safetensors")
    moved = [name for name in final if not torch.equal(final[name], base[name])]
    assert any("layers.0." in name for name in moved)
    assert all(torch.equal(final[name], ended[name]) for name in final)


def test_what_begins_to_train_later_and_is_not_learned_is_refused(train):
    class Thaw(Base):
        def learned(self, context, model):
            return {name: value for name, value in super().learned(context, model).items() if "lora_" in name}

        def after_step(self, context, model, *, last):
            model.get_parameter("base_model.model.model.norm.weight").requires_grad_(True)

    with pytest.raises(CompatibilityError, match=r"method 'unusual'.*norm\.weight"):
        train(Thaw)


def test_a_checkpoint_holds_what_is_frozen_by_then():
    from cl_plugins.training.trained import forget_trained, note_trained, train_again

    model = torch.nn.Linear(2, 2).requires_grad_(False)
    model.register_parameter("cl_own", torch.nn.Parameter(torch.ones(1)))
    model.register_parameter("cl_other", torch.nn.Parameter(torch.ones(1)))
    note_trained(model)
    model.cl_own.requires_grad_(False)
    assert extras(model).keys() == {"cl_own", "cl_other"}
    train_again(model)
    assert model.cl_own.requires_grad
    assert not model.weight.requires_grad
    forget_trained(model)
    model.cl_own.requires_grad_(False)
    assert extras(model).keys() == {"cl_other"}


def test_a_method_that_leaves_hooks_out_is_named(monkeypatch):
    class Half(Method):
        name = "half"
        title = "Half"

        def begin_task(self, context, model):
            return model

    monkeypatch.setitem(METHODS.own, "half", Half)
    with pytest.raises(RecipeError, match=r"'half' of the package .*does not define consolidate, export, restore"):
        METHODS.get("half", where="cl.method.name")


@dataclass(frozen=True)
class Options:
    names: Sequence[str] = option(("x",), help="Names.")
    file: Path = option(Path("x"), help="A file.")
    numbers: set[int] = option(factory=set, help="Numbers.")
    odd: complex = option(0j, help="What no YAML holds.")
    plain: dict = field(default_factory=dict)


class Typed(Base):
    name = "unusual_types"
    config_class = Options


def test_options_of_other_types(train):
    seen = []

    class Seen(Typed):
        def __init__(self, config):
            super().__init__(config)
            seen.append(config)

    out = train(Seen, options={"names": ["q"], "file": "a/b", "numbers": [3, 1], "plain": {"k": [1]}})
    assert seen[0] == Options(("q",), Path("a/b"), {1, 3}, 0j, {"k": [1]})
    options = load(out, "run.json")["method_options"]
    assert (options["names"], options["file"], options["numbers"]) == (["q"], "a/b", [1, 3])


def test_an_option_of_a_type_that_no_value_can_be_checked_against(train):
    with pytest.raises(RecipeError, match=r"odd: is declared as `complex`.*use one of bool, int"):
        train(Typed, options={"odd": 3})
    with pytest.raises(RecipeError, match=r"numbers\[0\]: is 'a'\. Give a whole number"):
        train(Typed, options={"numbers": ["a"]})
