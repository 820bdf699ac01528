from __future__ import annotations

import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest

from cl_plugins.base.errors import CompatibilityError, RecipeError
from cl_plugins.host import activation, dispatch


@pytest.fixture
def toy(monkeypatch):
    """A module with a `run_sft` of the host's signature, and another one that imported it earlier."""
    calls = []

    def run_sft(model_args, data_args, training_args, finetuning_args, generating_args, callbacks=None):
        """The host's."""
        calls.append((model_args, data_args, training_args, finetuning_args, generating_args, callbacks))
        return "trained"

    module, earlier = ModuleType("toy_sft"), ModuleType("toy_user")
    module.run_sft = earlier.run_sft = run_sft
    earlier.original = run_sft
    for each in (module, earlier):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    return SimpleNamespace(module=module, earlier=earlier, calls=calls, original=run_sft)


def test_without_cl_the_original_gets_the_very_same_arguments(toy, runs):
    dispatch.install(toy.module)
    given = [object() for _ in range(6)]
    assert toy.module.run_sft(*given) == "trained"
    assert toy.module.run_sft(*given[:3], finetuning_args=given[3], generating_args=given[4]) == "trained"
    assert all(a is b for a, b in zip(toy.calls[0], given, strict=True))
    assert toy.calls[1][:5] == tuple(given[:5])
    assert toy.calls[1][5] is None
    assert runs == []


def test_with_cl_our_runner_gets_the_recipe_and_the_callbacks(toy, runs):
    dispatch.install(toy.module)
    data_args = SimpleNamespace(cl={"stream": "x"}, cl_recipe=object())
    callback = object()
    toy.module.run_sft(None, data_args, None, None, None, [callback])
    toy.module.run_sft(None, data_args, None, None, generating_args=None)
    assert toy.calls == []
    assert [(recipe, callbacks) for _, recipe, callbacks in runs] == [
        (data_args.cl_recipe, [callback]),
        (data_args.cl_recipe, []),
    ]
    assert {host.name for host, _, _ in runs} == {"LLaMA-Factory"}


def test_references_taken_earlier_are_replaced_and_others_are_not(toy):
    dispatch.install(toy.module)
    assert toy.earlier.run_sft is toy.module.run_sft
    assert toy.earlier.original is toy.original  # another name: not ours to touch
    wrapper = toy.module.run_sft
    dispatch.install(toy.module)
    assert toy.module.run_sft is wrapper


def test_the_wrapper_looks_like_the_original(toy):
    dispatch.install(toy.module)
    wrapper = toy.module.run_sft
    assert wrapper.__name__ == "run_sft"
    assert wrapper.__doc__ == "The host's."
    assert wrapper.__wrapped__ is toy.original
    assert inspect.signature(wrapper) == inspect.signature(toy.original)
    assert inspect.getsource(wrapper) == inspect.getsource(toy.original)


def test_arguments_that_were_not_parsed_by_the_host_are_an_error_and_not_ignored(toy, runs):
    dispatch.install(toy.module)
    with pytest.raises(RecipeError, match="get_train_args"):
        toy.module.run_sft(None, SimpleNamespace(cl={"stream": "x"}), None, None, None)
    assert toy.calls == []
    assert runs == []


def test_run_exp_reaches_our_runner_with_the_users_callbacks(recipe, runs):
    from llamafactory.train import tuner
    from transformers import TrainerCallback

    activation.activate()
    mine = TrainerCallback()
    tuner.run_exp(recipe, [mine])
    ((_, checked, callbacks),) = runs
    assert {**checked.host_keys, "cl": recipe["cl"]} == recipe
    assert checked.config.stream.task_names == ("path", "rad")
    assert callbacks == [mine]  # those of the host's launcher are made anew for every task


def test_a_reference_that_escaped_is_caught_when_the_recipe_is_parsed(recipe, runs, monkeypatch):
    from llamafactory.train import sft, tuner

    activation.activate()
    original = sft.run_sft.__wrapped__
    monkeypatch.setattr(sft, "run_sft", original)
    monkeypatch.setattr(tuner, "run_sft", original)
    tuner.run_exp(recipe)
    assert len(runs) == 1
    assert dispatch.is_wrapped(sft.run_sft)
    assert tuner.run_sft is sft.run_sft


def test_a_host_that_calls_another_workflow_is_an_error_and_not_ignored(recipe, runs, monkeypatch):
    from llamafactory.train import tuner

    activation.activate()
    monkeypatch.delattr(tuner, "run_sft")
    with pytest.raises(CompatibilityError, match=r"llamafactory\.train\.tuner\.run_sft"):
        tuner.run_exp(recipe)
    assert runs == []
