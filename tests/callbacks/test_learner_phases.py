"""A method whose tasks have two trainings, in a custom trainer: what it learns is what the recipe learns."""

from __future__ import annotations

import pytest
import tiny
from custom_trainer import LORA, OwnTrainer, alone, learn
from regularised import gap
from running import NO_TESTS, go
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from cl_plugins.base.errors import CompatibilityError, RunStateError
from cl_plugins.callbacks import ContinualLearner
from cl_plugins.run.deletion import kept_samples


TASKS = ("one", "two")
SELECTOR = {"kind": "mllm", "steps": 5, "learning_rate": 1e-2}
REPLAY = {"capacity_per_task": 3}
FILES = ("01_one/update", "02_two/update", "02_two/update_router", "02_two/selector")


@pytest.fixture(scope="module")
def keys(llama, tmp_path_factory):
    data = tiny.build_data(tmp_path_factory.mktemp("texts"), TASKS, train=8, test=1, text_only=True)

    def make(out):
        method = {"name": "mr_lora", "selector": SELECTOR}
        return tiny.recipe(
            llama, data, out, method, TASKS, text_only=True, cl={**NO_TESTS, "replay": REPLAY}, max_steps=6
        )

    return make


def learner(llama, out, **more):
    model = AutoModelForCausalLM.from_pretrained(llama)
    given = {"tokenizer": AutoTokenizer.from_pretrained(llama), **more}
    return ContinualLearner(
        model, "mr_lora", out, lora=LORA, options={"selector": SELECTOR}, seed=7, replay=REPLAY, **given
    )


def learned(out):
    return [load_file(out / "tasks" / f"{name}.safetensors") for name in FILES]


def test_a_router_in_a_custom_trainer_is_that_of_the_recipe(llama, keys, tmp_path):
    go(keys(tmp_path / "recipe"))
    made = learner(llama, tmp_path / "state")
    for number, name in enumerate(TASKS, start=1):
        learn(made, name, alone(keys(tmp_path / name), name, number))
    for ours, theirs, file in zip(learned(tmp_path / "state"), learned(tmp_path / "recipe"), FILES, strict=True):
        assert gap(ours, theirs) < 1e-6, file
    assert made.finished == TASKS
    assert [sample.task for sample in kept_samples(tmp_path / "state")] == ["one"] * 3 + ["two"] * 3
    assert (tmp_path / "two.router").is_dir()


class Stop(Exception):
    pass


@pytest.mark.parametrize("where", ["", "router"])
def test_a_task_that_was_stopped_in_a_phase_ends_the_same_when_it_is_learned_again(
    llama, keys, tmp_path, monkeypatch, where
):
    def learn_both(state, stop):
        made = learner(llama, tmp_path / state)
        for number, name in enumerate(TASKS, start=1):
            if name not in made.finished:
                learn(made, name, alone(keys(tmp_path / f"{state}-{name}"), name, number))

    learn_both("whole", None)
    step = OwnTrainer.training_step

    def stopped(self, *args, **kwargs):
        ending = f"two.{where}" if where else "two"
        if self.args.output_dir.endswith(ending) and self.state.global_step == 3:
            raise Stop
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(OwnTrainer, "training_step", stopped)
        with pytest.raises(Stop):
            learn_both("state", where)
    assert learner(llama, tmp_path / "state").finished == ("one",)
    learn_both("state", None)
    for folder in ("tasks", "carry"):
        ours, theirs = (
            {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out / folder).rglob("*.safetensors")}
            for out in ("state", "whole")
        )
        assert ours
        assert ours == theirs


def test_a_training_that_is_left_out_is_an_error(llama, keys, tmp_path):
    made = learner(llama, tmp_path / "state")
    learn(made, "one", alone(keys(tmp_path / "one"), "one", 1))
    args = TrainingArguments(output_dir=str(tmp_path / "two"), report_to=[], use_cpu=True)

    def only_the_first():
        with made.task("two") as task:
            first = next(iter(task.trainings()))
            assert first.arguments(args).output_dir == args.output_dir
            first.callback.finished = True

    def none():
        with made.task("two") as task:
            list(task.trainings())

    with pytest.raises(RunStateError, match=r"further trainings.*task.trainings"):
        only_the_first()
    with pytest.raises(RunStateError, match="before the next"):
        none()


def test_without_a_tokenizer_it_says_what_to_give(llama, tmp_path):
    made = learner(llama, tmp_path / "state", tokenizer=None)
    with pytest.raises(CompatibilityError, match="tokenizer="), made.task("one"):
        pass
