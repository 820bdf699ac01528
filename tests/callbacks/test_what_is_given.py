"""A trainer that is given another model, another checkpoint or another LoRA than a task's own is refused before it trains."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_callbacks import MixedTrainer, learner, rows, train  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from cl_plugins.adapters.lora_config import lora_problems
from cl_plugins.adapters.update import adapter_state
from cl_plugins.base.errors import CompatibilityError, RunStateError
from cl_plugins.callbacks import ContinualCallback, ContinualLearner
from cl_plugins.contract.names import trainable


SAVED = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


def values(model):
    return {name: p.detach().clone() for name, p in trainable(model).items()}


@pytest.mark.parametrize(
    "field",
    [
        {"rank_pattern": {"q_proj": 1}},
        {"alpha_pattern": {"q_proj": 64}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa_niter_4"},
        {"use_dora": True},
        {"lora_bias": True},
        {"trainable_token_indices": [1, 2]},
    ],
)
def test_a_lora_that_updates_cannot_hold_is_refused_when_the_learner_is_made(llama, tmp_path, field):
    model = AutoModelForCausalLM.from_pretrained(llama)
    lora = LoraConfig(target_modules="all-linear", **field)
    (name,) = field
    with pytest.raises(CompatibilityError, match=rf"lora\.{name}"):
        ContinualLearner(model, "seqlora", tmp_path / "state", lora=lora)


@pytest.mark.parametrize(
    "field", [{}, {"init_lora_weights": "gaussian"}, {"init_lora_weights": False}, {"use_rslora": True}, {"r": 2}]
)
def test_other_loras_are_rebuilt_as_they_were_trained(llama, tmp_path, field):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(llama)
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **field)
    assert lora_problems(lora) == []
    made = ContinualLearner(model, "inclora", tmp_path / "state", lora=lora)
    ids = torch.arange(10, 20)[None]
    for name in ("one", "two"):
        with made.task(name) as task:
            train(task, llama, tmp_path / name, max_steps=2)
            trained = task.model.eval()(input_ids=ids).logits.detach().clone()
        assert torch.allclose(made.model().eval()(input_ids=ids).logits, trained, atol=1e-5)


@pytest.mark.parametrize("method", ["seqlora", "inclora", "ewc"])
def test_another_model_is_refused_before_the_first_step(learner, llama, tmp_path, method):  # noqa: F811
    made = learner(method)
    own = get_peft_model(AutoModelForCausalLM.from_pretrained(llama), LoraConfig(target_modules="all-linear"))
    found = r"does not train the tensors of `task\.model`"
    with pytest.raises(CompatibilityError, match=found), made.task("one") as task:
        train(SimpleNamespace(model=own, callback=task.callback), llama, tmp_path / "t")
    assert made.finished == ()


def test_the_base_in_place_of_the_model_is_the_same_training(learner, llama, tmp_path):  # noqa: F811
    """PEFT puts the adapter into the base: its tensors are those of the task."""
    found = []
    for kind in ("model", "base"):
        made = learner("seqlora", kind)
        with made.task("one") as task:
            model = task.model
            if kind == "base":
                task.model = model.get_base_model()
            train(task, llama, tmp_path / kind)
            found.append(adapter_state(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_second_training_in_the_block_of_a_task_is_refused(learner, llama, tmp_path):  # noqa: F811
    with learner("seqlora").task("one") as task:
        train(task, llama, tmp_path / "t")
        with pytest.raises(RunStateError, match="is trained already"):
            train(task, llama, tmp_path / "t")


def test_an_adapter_of_another_name_is_refused(llama, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(llama), LoraConfig(target_modules="all-linear"), adapter_name="mine"
    )
    task = SimpleNamespace(model=model, callback=ContinualCallback("seqlora", tmp_path / "state", "one"))
    with pytest.raises(CompatibilityError, match="no adapter called 'default', but 'mine'"):
        train(task, llama, tmp_path / "t")


@pytest.mark.parametrize("kind", ["transformers", "mixin"])
@pytest.mark.parametrize("method", ["seqlora", "inclora"])
def test_a_checkpoint_of_another_task_is_not_gone_on_from(learner, llama, tmp_path, kind, method):  # noqa: F811
    trainer = {"trainer": MixedTrainer} if kind == "mixin" else {}
    made, out = learner(method), tmp_path / "t"
    with made.task("one") as task:
        train(task, llama, out, **trainer, **SAVED)
    with (
        pytest.raises(RunStateError, match=r"checkpoint-4, which is of task 'one'"),
        made.task("two") as task,
    ):
        train(task, llama, out, **trainer, resume=str(out / "checkpoint-4"), **{**SAVED, "max_steps": 8})
    assert made.finished == ("one",)


class Stop(TrainerCallback):
    """Ends a training as a kill does, after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("method", ["seqlora", "moelora"])
@pytest.mark.parametrize("kind", ["transformers", "mixin"])
def test_the_checkpoint_of_the_task_itself_is_gone_on_from(learner, llama, tmp_path, kind, method, moved):  # noqa: F811
    """From where it lies; a plain trainer does not tell a callback where that is."""
    trainer = {"trainer": MixedTrainer} if kind == "mixin" else {}
    options = {"experts": 2} if method == "moelora" else {}
    whole = learner(method, "whole", options=options)
    with whole.task("one") as task:
        train(task, llama, tmp_path / "whole", **trainer, **SAVED)
        wanted = values(task.model)
    made, out = learner(method, "killed", options=options), tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt), made.task("one") as task:
        train(task, llama, out, **trainer, more=[Stop(2)], **SAVED)
    place = out / "checkpoint-2"
    if moved:
        place = tmp_path / "elsewhere" / "checkpoint-2"
        shutil.move(out / "checkpoint-2", place)
    again = learner(method, "killed", options=options)
    if moved and method == "moelora" and kind == "transformers":
        with pytest.raises(RunStateError, match=r"is not .*checkpoint-2"), again.task("one") as task:
            train(task, llama, out, resume=str(place), **SAVED)
        return
    with again.task("one") as task:
        train(task, llama, out, **trainer, resume=str(place), **SAVED)
        found = values(task.model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


class Best(TrainerCallback):
    """Says of an early step that it is the best."""

    def __init__(self, model):
        self.model, self.at_best = model, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.at_best = values(self.model)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_loss"] = float(state.global_step != 2)


BEST = {**SAVED, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}


@pytest.mark.parametrize(
    ("method", "options"),
    [("moelora", {"experts": 2}), ("l2p", {"pool_size": 4, "prompt_length": 2, "top_k": 2}), ("seqlora", {})],
)
def test_the_best_weights_are_those_that_remain(learner, llama, tmp_path, method, options):  # noqa: F811
    class First(MixedTrainer):
        """Step 2 has the lowest loss."""

        def evaluate(self, *args, **kwargs):
            metrics = {"eval_loss": float(self.state.global_step != 2)}
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    made = learner(method, options=options)
    with made.task("one") as task:
        seen = Best(task.model)
        train(task, llama, tmp_path / "t", First, more=[seen], evaluated=True, **BEST)
        last = values(task.model)
    assert seen.at_best
    assert all(torch.equal(last[name], seen.at_best[name]) for name in seen.at_best)


def test_best_weights_that_would_not_remain_are_refused(learner, llama, tmp_path):  # noqa: F811
    made = learner("ilora", "ends", replay={"capacity_per_task": 2})
    found = "load_best_model_at_end: does not go with 'ilora'"
    with pytest.raises(CompatibilityError, match=found), made.task("one") as task:
        train(task, llama, tmp_path / "t", MixedTrainer, evaluated=True, **BEST)
    made = learner("moelora", "plain", options={"experts": 2})
    with pytest.raises(CompatibilityError, match="as they are in the last step"), made.task("one") as task:
        train(task, llama, tmp_path / "t", evaluated=True, **BEST)


def test_a_training_that_a_callback_ends_says_so(learner, llama, tmp_path):  # noqa: F811
    class Early(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    with (
        pytest.raises(RunStateError, match="was ended after 2 optimizer steps"),
        learner("seqlora").task("one") as task,
    ):
        train(task, llama, tmp_path / "t", more=[Early()], max_steps=4)


def test_a_sized_stream_of_samples_is_refused_where_samples_are_counted(learner, llama, tmp_path):  # noqa: F811
    class Sized(torch.utils.data.IterableDataset):
        def __init__(self, samples):
            self.samples = samples

        def __len__(self):
            return len(self.samples)

        def __iter__(self):
            return iter(self.samples)

    samples = Sized(rows(AutoTokenizer.from_pretrained(llama)))
    with pytest.raises(CompatibilityError, match="ewc"), learner("ewc").task("one") as task:
        train(task, llama, tmp_path / "t", samples=samples)
