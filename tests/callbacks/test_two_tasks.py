"""The real methods over two tasks in other people's trainings: the weights of task 2 are those of the `cl` recipe."""

from __future__ import annotations

from contextlib import nullcontext

import method_cases
import pytest
import tiny
from custom_trainer import LORA, alone, learn
from regularised import gap
from running import NO_TESTS, go
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.callbacks import ContinualCallback, ContinualLearner
from cl_plugins.streams import Task


TASKS = ("one", "two")
CASES = {case.name: case for case in method_cases.CASES if case.learner is not None}
OPTIONS = {name: {k: v for k, v in case.given(case.learner).items() if k != "name"} for name, case in CASES.items()}
GO_ON = [name for name, case in CASES.items() if case.goes_on]


def updates(out):
    return [load_file(out / "tasks" / f"{k:02d}_{name}" / "update.safetensors") for k, name in enumerate(TASKS, 1)]


@pytest.fixture(scope="module")
def keys(llama, tmp_path_factory):
    data = tiny.build_data(tmp_path_factory.mktemp("texts"), TASKS, train=8, test=1, text_only=True)

    def make(out, method):
        given = {"name": method, **OPTIONS[method]}
        block = {**NO_TESTS, **(CASES[method].block if method in CASES else {})}
        return tiny.recipe(llama, data, out, given, TASKS, text_only=True, cl=block, max_steps=6)

    return make


@pytest.fixture(scope="module")
def ours(keys, tmp_path_factory):
    """What a recipe with `cl` learns, by method; each is carried out once."""
    found = {}

    def learn(method):
        if method not in found:
            out = tmp_path_factory.mktemp("ours") / method
            go(keys(out, method))
            found[method] = updates(out)
        return found[method]

    return learn


def plain(keys, out, method, number):
    return alone(keys(out, method), TASKS[number - 1], number)


def check(method, got, ours):
    assert gap(got[0], ours(method)[0]) < 1e-6
    assert gap(got[1], ours(method)[1]) < 1e-6
    if CASES[method].without:  # the term acts, and in the second task only
        without = ours(method_cases.case_of(CASES[method].without).name)
        assert gap(got[0], without[0]) < 1e-6
        assert gap(got[1], without[1]) > 1e-2


RUN_EXP = [name for name in OPTIONS if CASES[name].run_exp]


@pytest.mark.parametrize("method", method_cases.slow_unless(RUN_EXP, (*method_cases.OF_EACH_KIND, "inclora")))
def test_under_run_exp_with_a_callback(keys, ours, tmp_path, method):
    """One LoRA goes on with `adapter_name_or_path`; a chain of LoRAs starts task 2 from an export."""
    from llamafactory.train.tuner import export_model, run_exp

    def callback(number):
        name = TASKS[number - 1]
        return ContinualCallback(method, tmp_path / "state", Task(name=name, modality=name), OPTIONS[method])

    first = plain(keys, tmp_path / "first", method, 1)
    run_exp(dict(first), callbacks=[callback(1)])
    if method in GO_ON:
        start = {"adapter_name_or_path": str(tmp_path / "first")}
    else:
        start = {"model_name_or_path": str(tmp_path / "merged")}
        export_model(
            {key: first[key] for key in ("model_name_or_path", "template", "finetuning_type")}
            | {"adapter_name_or_path": str(tmp_path / "first"), "export_dir": str(tmp_path / "merged")}
            | {"infer_dtype": "float32"}
        )
    run_exp(plain(keys, tmp_path / "second", method, 2) | start, callbacks=[callback(2)])
    check(method, updates(tmp_path / "state"), ours)


@pytest.mark.parametrize("method", GO_ON)
def test_a_second_task_without_the_first_ones_adapter_is_refused(keys, tmp_path, method):
    from llamafactory.train.tuner import run_exp

    for number, name in enumerate(TASKS, start=1):
        callback = ContinualCallback(method, tmp_path / "state", name, OPTIONS[method])
        with pytest.raises(CompatibilityError, match="adapter_name_or_path") if number == 2 else nullcontext():
            run_exp(plain(keys, tmp_path / name, method, number), callbacks=[callback])
    assert len(list((tmp_path / "state" / "tasks").iterdir())) == 1


@pytest.mark.parametrize("method", ["hide", "moelora"])
def test_a_method_that_chooses_per_sample_needs_a_learner(keys, tmp_path, method):
    from llamafactory.train.tuner import run_exp

    with pytest.raises(CompatibilityError, match="ContinualLearner"):
        run_exp(
            plain(keys, tmp_path / "first", method, 1),
            callbacks=[ContinualCallback(method, tmp_path / "state", "one", OPTIONS[method])],
        )


@pytest.mark.parametrize("method", method_cases.slow_unless(OPTIONS, (*method_cases.OF_EACH_KIND, "mr_lora")))
def test_with_a_learner_and_the_mixin(llama, keys, ours, tmp_path, method):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama)
    learner = ContinualLearner(
        model, method, tmp_path / "state", lora=LORA, options=OPTIONS[method], seed=7, tokenizer=tokenizer,
        replay=CASES[method].block.get("replay"),
    )  # fmt: skip
    for number, name in enumerate(TASKS, start=1):
        learn(learner, name, plain(keys, tmp_path / name, method, number))
    check(method, updates(tmp_path / "state"), ours)
