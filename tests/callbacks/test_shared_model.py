"""Nobody but the learner changes its base: merged copies, second learners and other bases are noticed."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

import cl_plugins
from cl_plugins.base.errors import RunStateError
from cl_plugins.callbacks import ContinualLearner


IDS = torch.arange(10, 20)[None]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture
def load(llama):
    return lambda **given: AutoModelForCausalLM.from_pretrained(llama, **given)


def made(model, directory, method="inclora", lora=LORA, **given):
    return ContinualLearner(model, method, directory, lora=LoraConfig(**lora) if lora else None, **given)


def train(learner, name, llama, stop=False):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    ids = tokenizer.encode("what colour is this ? red" if name == "one" else "is this the answer ? no")
    row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [*ids]}
    with learner.task(name) as task:
        args = TrainingArguments(
            output_dir=str(learner.directory / "trainer"), max_steps=3, learning_rate=0.01, save_strategy="no", report_to=[],
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        Trainer(
            model=task.model, train_dataset=[row] * 8, data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[task.callback], args=args,
        ).train()  # fmt: skip
        if stop:
            raise InterruptedError


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def update(learner, number, name):
    return load_file(learner.directory / "tasks" / f"{number:02d}_{name}" / "update.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_model_that_was_merged_is_refused_and_a_copy_is_not(load, llama, tmp_path):
    learner = made(load(), tmp_path / "a", "seqlora")
    train(learner, "one", llama)
    expected = logits(learner.model())
    deployed = copy.deepcopy(learner.model()).merge_and_unload()
    assert torch.allclose(logits(deployed), expected, atol=1e-4)
    assert torch.equal(logits(learner.model()), expected)
    learner.model().merge_and_unload()
    for use in (learner.model, learner.release, lambda: train(learner, "two", llama)):
        with pytest.raises(RunStateError, match=r"model: was changed since.*merge_and_unload.*Load the base anew"):
            use()
    assert learner.finished == ("one",)
    again = made(load(), tmp_path / "a", "seqlora")
    assert torch.equal(logits(again.model()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_learner_is_refused_until_the_first_releases(load, llama, tmp_path, dtype):
    model = load(dtype=dtype)
    base = logits(model)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    first = made(model, tmp_path / "a")
    train(first, "one", llama)
    with pytest.raises(RunStateError, match=r"model: is used by the learner of '.*a', .*`release\(\)`"):
        made(model, tmp_path / "b")
    learned = logits(first.model())  # one LoRA, merged or beside the weights
    assert not torch.allclose(learned, base)
    with pytest.raises(RunStateError, match="is used by the learner"):
        made(model, tmp_path / "b")
    first.release()
    assert torch.equal(logits(model), base)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    second = made(model, tmp_path / "b")
    train(second, "one", llama)
    assert same(update(second, 1, "one"), update(first, 1, "one"))
    with pytest.raises(RunStateError, match=r"is used by the learner of '.*b'"):
        first.model()
    second.release()
    assert torch.equal(logits(first.model()), learned)


def test_a_learner_that_is_gone_leaves_its_mark(load, llama, tmp_path):
    model = load()
    first = made(model, tmp_path / "a")
    train(first, "one", llama)
    first.model()
    del first
    gc.collect()
    with pytest.raises(RunStateError, match=r"is used by the learner of '.*a'"):
        made(model, tmp_path / "b")
    second = made(copy.deepcopy(model), tmp_path / "b")  # to begin with what was learned
    assert torch.equal(logits(second.model()), logits(model))


def test_learners_that_have_done_nothing_do_not_disturb(load, llama, tmp_path):
    model = load()
    first, second = made(model, tmp_path / "a"), made(model, tmp_path / "b", "seqlora")
    train(second, "one", llama)
    with pytest.raises(RunStateError, match=r"is used by the learner of '.*b'"):
        train(first, "one", llama)
    second.release()
    train(first, "one", llama)
    other = made(load(), tmp_path / "c")
    train(other, "one", llama)
    assert same(update(first, 1, "one"), update(other, 1, "one"))


def test_methods_one_after_the_other_on_one_model(load, llama, tmp_path):
    model, found = load(), []
    for name in ("a", "b"):
        learner = made(model, tmp_path / name, tasks=["one", "two"])
        train(learner, "one", llama)
        train(learner, "two", llama)
        learner.finish()
        found.append(logits(cl_plugins.load(tmp_path / name)))
    assert torch.equal(found[0], found[1])


def test_full_fine_tuning_keeps_no_base(load, llama, tmp_path):
    model = load()
    learner = made(model, tmp_path / "a", "seqfull", lora=None)
    train(learner, "one", llama)
    learned = logits(model)
    with pytest.raises(RunStateError, match="was changed since"):
        learner.release()
    assert torch.equal(logits(model), learned)
    with pytest.raises(RunStateError, match=r"is used by the learner of '.*a'"):
        made(model, tmp_path / "b", "seqfull", lora=None)
    assert torch.equal(logits(learner.model()), learned)
    train(learner, "two", llama)


def test_another_base_is_named(load, llama, tmp_path):
    train(made(load(), tmp_path / "a"), "one", llama)
    turned = load()
    with torch.no_grad():
        turned.model.layers[0].mlp.up_proj.weight.neg_()
    with pytest.raises(RunStateError, match=r"'inclora' on '.*' whose weights are others.*Load the base as before"):
        made(turned, tmp_path / "a")
    with pytest.raises(RunStateError, match=r"another configuration of the model.*with the same configuration"):
        made(load(rms_norm_eps=0.5), tmp_path / "a")
    with pytest.raises(RunStateError, match=r"a carry of 'inclora' on '[^']*'\. Use the same method and base"):
        made(load(), tmp_path / "a", "seqlora")
    assert made(load(), tmp_path / "a").finished == ("one",)
