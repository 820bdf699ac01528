"""The methods in other people's trainers: same numbers as in a run of ours, resumable, and never silently idle."""

from __future__ import annotations

import pytest
import tiny
import torch
from peft import LoraConfig
from regularised import gap
from running import NO_TESTS, go
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from cl_plugins.adapters.update import adapter_state, trained_factors
from cl_plugins.base.errors import CompatibilityError, RecipeError, RunStateError
from cl_plugins.callbacks import ContinualCallback, ContinualLearner, ContinualTrainerMixin
from cl_plugins.methods.seqlora import SeqLoRA


class Pull(SeqLoRA):
    """Pulls every LoRA factor towards one half: large and easy to see."""

    name = "pull"

    def penalties(self, context, model):
        return {"pull": sum(((f - 0.5) ** 2).sum() for pair in trained_factors(model).values() for f in pair)}


class Scaled(SeqLoRA):
    """A batch term that is easy to predict: the mean square of the answers' logits."""

    name = "scaled"

    def batch_terms(self, context, model, batch):
        kept = batch.logits[:, :-1][batch.labels[:, 1:] != -100]
        return {"square": kept.square().mean()}


class MixedTrainer(ContinualTrainerMixin, Trainer):
    pass


def rows(tokenizer, words=("red", "green", "blue", "grey")):
    found = []
    for word in words:
        prompt = tokenizer.encode("what colour is this ?")
        ids = [*prompt, tokenizer.encode(word)[0]]
        found.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + ids[-1:]})
    return found


@pytest.fixture
def learner(llama, tmp_path):
    def make(method, directory="state", **kwargs):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(llama)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        name = method if isinstance(method, str) else "seqlora"
        made = ContinualLearner(model, name, tmp_path / directory, lora=lora, **kwargs)
        made.method = made.method if isinstance(method, str) else method
        return made

    return make


def train(
    task, llama, out, trainer=Trainer, layout=(4, 1), resume=None, more=(), samples=None, evaluated=False, **given
):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    extra = {"terms": task.terms} if issubclass(trainer, ContinualTrainerMixin) else {}
    settings = {
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    }
    trainer = trainer(
        model=task.model, train_dataset=samples if samples is not None else rows(tokenizer),
        eval_dataset=rows(tokenizer) if evaluated else None, data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[task.callback, *more], **extra,
        args=TrainingArguments(
            output_dir=str(out), per_device_train_batch_size=layout[0], gradient_accumulation_steps=layout[1],
            report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1, **{"save_strategy": "no", **settings, **given},
        ),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_callback_and_mixin_give_the_same_weights_in_any_layout(learner, llama, tmp_path, clip):
    found = []
    for i, (kind, layout) in enumerate(
        [(Trainer, (4, 1)), (Trainer, (1, 4)), (MixedTrainer, (4, 1)), (MixedTrainer, (2, 2))]
    ):
        made = learner(Pull(None), f"state{i}")
        with made.task("one") as task:
            trainer = train(task, llama, tmp_path / f"t{i}", kind, layout, max_grad_norm=clip)
            found.append(adapter_state(task.model))
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert logs[-1]["penalty/pull"] > 1
    assert all(gap(other, found[0]) < 1e-5 for other in found[1:])
    plain = learner("seqlora", "plain")
    with plain.task("one") as task:
        train(task, llama, tmp_path / "plain-t", max_grad_norm=clip)
        without = adapter_state(task.model)
    assert gap(without, found[0]) > 1e-2


def test_the_penalty_is_clipped_with_the_rest(learner, llama, tmp_path):
    made = learner(Pull(None))
    with made.task("one") as task:
        before = {n: t.clone() for n, t in adapter_state(task.model).items()}
        train(task, llama, tmp_path / "t", max_grad_norm=0.01)
        after = adapter_state(task.model)
    step = sum(float((after[n] - before[n]).double().square().sum()) for n in after) ** 0.5
    assert step == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_gradient_of_a_batch_term_does_not_depend_on_the_layout(learner, llama, tmp_path):
    found = []
    for i, layout in enumerate([(4, 1), (2, 2), (1, 4)]):
        made = learner(Scaled(None), f"s{i}")
        with made.task("one") as task:
            train(task, llama, tmp_path / f"t{i}", MixedTrainer, layout)
            found.append(adapter_state(task.model))
    assert gap(found[1], found[0]) < 1e-4
    assert gap(found[2], found[0]) < 1e-4


def test_a_method_that_needs_the_logits_is_refused_in_a_callback_alone(learner, llama, tmp_path):
    made = learner(Scaled(None))
    with pytest.raises(CompatibilityError, match="ContinualTrainerMixin"), made.task("one") as task:
        train(task, llama, tmp_path / "t")


def test_the_callback_under_run_exp_equals_a_run_of_ours(llama, tmp_path, monkeypatch):
    """``run_exp(args, callbacks=[...])`` without ``cl`` against the same method under ``cl``."""
    from llamafactory.train.tuner import run_exp

    from cl_plugins.methods import registry

    monkeypatch.setitem(registry.METHODS.own, "pull", Pull)
    data = tiny.build_data(tmp_path / "data", ("one", "two"), train=8, test=1, text_only=True)
    keys = tiny.recipe(
        llama, data, tmp_path / "ours", "pull", ("one",), text_only=True, cl=dict(NO_TESTS), max_steps=4
    )
    go(dict(keys))
    keys.pop("cl")
    plain = {**keys, "dataset": "one_train", "output_dir": str(tmp_path / "plain")}
    run_exp(plain, callbacks=[ContinualCallback("pull", tmp_path / "state", "one")])
    ours = load_file(tmp_path / "ours" / "tasks" / "01_one" / "update.safetensors")
    theirs = load_file(tmp_path / "state" / "tasks" / "01_one" / "update.safetensors")
    assert gap(theirs, ours) < 1e-5


@pytest.mark.parametrize("method", ["seqlora", "inclora"])
def test_a_stream_is_taken_up_again_and_the_model_is_rebuilt_from_files(learner, llama, tmp_path, method):
    ids = torch.arange(10, 20)[None]
    made = learner(method)
    with made.task("one") as task:
        train(task, llama, tmp_path / "t1", max_steps=3)
        trained = task.model.eval()(input_ids=ids).logits.detach().clone()
    answered = made.model().eval()(input_ids=ids).logits.detach()
    assert torch.allclose(answered, trained, atol=1e-5)
    assert made.finished == ("one",)

    again = learner(method)  # a new process would do the same
    assert again.finished == ("one",)
    with again.task("two") as task:
        start = task.model.eval()(input_ids=ids).logits.detach().clone()
        task.model.train()
        train(task, llama, tmp_path / "t2", max_steps=3)
    assert torch.equal(start, answered)
    assert again.finished == ("one", "two")
    with pytest.raises(RunStateError, match="already learned"), again.task("two"):
        pass


def test_what_was_not_trained_is_not_carried(learner, llama, tmp_path):
    made = learner("inclora")
    with pytest.raises(RunStateError, match="not trained to its end"), made.task("one"):
        pass
    assert made.finished == ()


def test_refusals(llama, tmp_path, learner):
    model = AutoModelForCausalLM.from_pretrained(llama)
    with pytest.raises(RecipeError, match="nosuch"):
        ContinualLearner(model, "nosuch", tmp_path / "a")
    with pytest.raises(CompatibilityError, match="LoraConfig"):
        ContinualLearner(model, "inclora", tmp_path / "a")
    with pytest.raises(RecipeError, match="consolidate"):
        ContinualLearner(model, "inclora", tmp_path / "a", lora=LoraConfig(), options={"consolidat": "merge"})
    with pytest.raises(RecipeError, match=r"task: is '\.\./up'"):
        ContinualCallback("ewc", tmp_path / "a", "../up")
    with pytest.raises(CompatibilityError, match="single_task"):
        ContinualLearner(model, "single_task", tmp_path / "a", lora=LoraConfig())
    made = learner("inclora", "taken")
    with made.task("one") as task:
        train(task, llama, tmp_path / "t")
    with pytest.raises(RunStateError, match="inclora"):
        learner("seqlora", "taken")


def test_full_fine_tuning(llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.lm_head.requires_grad_(False)
    made = ContinualLearner(model, "seqfull", tmp_path / "full")
    with made.task("one") as task:
        train(task, llama, tmp_path / "t")
        trained = task.model.state_dict()["model.norm.weight"].clone()
    names = load_file(tmp_path / "full" / "tasks" / "01_one" / "update.safetensors")
    assert "lm_head.weight" not in names
    assert torch.equal(made.model().state_dict()["model.norm.weight"], trained)
