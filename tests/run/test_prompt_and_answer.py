"""A row chooses by its prompt and never by its answer, whoever computes the loss and whoever starts the forward."""

from __future__ import annotations

from functools import cached_property
from unittest import mock

import pytest
import torch
from method_cases import mapping_of
from regularised import gap, tensors, text_tasks, train
from row_prompts import batch, prompts
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.row_features import Rows
from cl_plugins.adapters.rows import answers_of
from cl_plugins.base.errors import CompatibilityError
from cl_plugins.training.mixin import ContinualTrainerMixin


SEPARATE = {"capacity_per_task": 3, "mixing": "separate"}
CASES = {
    "plain": ({}, {}),
    "smoothing": ({"label_smoothing_factor": 0.1}, {}),
    "dft": ({"use_dft_loss": True}, {}),
    "eaft": ({"use_eaft_loss": True}, {}),
    "separate": ({"disable_gradient_checkpointing": True}, SEPARATE),
    "highest_loss": ({}, {"capacity_per_task": 3, "selection": "highest_loss"}),
    "herding": ({}, {"capacity_per_task": 3, "selection": "herding"}),
}
FAST = ("smoothing", "separate", "herding")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_tasks(tmp_path_factory.mktemp("prompts") / "data", train=8)


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in FAST else (pytest.mark.slow,)) for c in CASES])
def test_no_choice_reads_an_answer(case, llama, texts, tmp_path):
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask as Collator

    keys, replay = CASES[case]
    labels, seen, collate, prompt = {}, [], Collator.__call__, Rows.prompt.func

    def collated(self, rows):
        found = collate(self, rows)
        labels.update(zip(map(tuple, found["input_ids"].tolist()), found["labels"].tolist(), strict=True))
        return found

    def noted(self):
        found = prompt(self)
        for ids, places in zip(self.ids.tolist(), found.tolist(), strict=True):
            answer = [label != -100 for label in labels[tuple(ids)]]
            first = answer.index(True)
            seen.append(places[:first] == [True] * first and not any(places[first:]))
        return found

    spy = cached_property(noted)
    spy.__set_name__(Rows, "prompt")
    with mock.patch.object(Rows, "prompt", spy), mock.patch.object(Collator, "__call__", collated):
        train(llama, texts, tmp_path / "run", mapping_of("l2p"), cl={"replay": replay}, max_steps=2, **keys)
    assert len(seen) >= 16
    assert all(seen)


METHODS = {
    "l2p": mapping_of("l2p"),
    "branchlora": {"name": "branchlora", "branches": 4, "gate_input": "mean_prompt", "selector": {"kind": "keys", "features": ["text"]}},
    "smolora": {"name": "smolora", "experts": 2},
    "modalprompt": {"name": "modalprompt", "prompt_length": 2},
    "hide": {"name": "hide", "selector": {"kind": "keys", "features": ["text"]}},
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(m, marks=() if m == "l2p" else (pytest.mark.slow,)) for m in METHODS])
def test_smoothing_by_nearly_nothing_changes_nearly_nothing(name, llama, texts, tmp_path):
    found = []
    for number, keys in enumerate(({}, {"label_smoothing_factor": 1e-9})):
        out = train(llama, texts, tmp_path / str(number), METHODS[name], max_steps=2, **keys)
        found.append(tensors(out))
    assert gap(*found) < 1e-5


class Mine(ContinualTrainerMixin, Trainer):
    """With label smoothing it takes the labels out of the batch."""


@pytest.fixture
def chosen(llama):
    """A model, and the prompts that its rows have chosen by."""
    model, seen = AutoModelForCausalLM.from_pretrained(llama), []
    base = HeldBase(model)
    base.rows(lambda rows: seen.append(rows.prompt.tolist()))
    yield model, seen
    base.reset()


def answered(seed=1):
    """Prompts with answers of two tokens, and where the prompts are."""
    inputs = batch(prompts(3, seed=seed))
    labels = inputs["input_ids"].clone()
    labels[:, :-2] = -100
    return {**inputs, "labels": labels}, (inputs["attention_mask"].bool() & (labels == -100)).tolist()


def trainer(kind, model, folder, **more):
    return kind(model=model, args=TrainingArguments(str(folder), use_cpu=True, report_to=[], **more))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_trainer_of_ones_own_says_what_is_prompt(smoothing, training, chosen, tmp_path):
    model, seen = chosen
    mine = trainer(Mine, model, tmp_path, label_smoothing_factor=smoothing)
    inputs, expected = answered()
    mine.current_gradient_accumulation_steps = 1
    if training:
        mine.training_step(model.train(), dict(inputs))
    else:
        mine.prediction_step(model.eval(), dict(inputs), True)
    assert seen == [expected]


def test_training_without_labels_is_refused_and_not_guessed(chosen, tmp_path):
    model, _ = chosen
    inputs, _ = answered()
    plain = trainer(Trainer, model, tmp_path, label_smoothing_factor=0.1)
    plain.create_optimizer()
    with pytest.raises(CompatibilityError, match="trained without `labels`"):
        plain.training_step(model.train(), dict(inputs))


def test_labels_hold_for_their_own_rows_only(chosen):
    model, seen = chosen
    inputs, expected = answered()
    other, _ = answered()
    other["input_ids"] = other["input_ids"].roll(1, dims=0)
    given = {k: v for k, v in inputs.items() if k != "labels"}
    with answers_of(model, inputs):
        model.train()(**given)
        model.eval()
        with torch.no_grad():
            model(**{k: v for k, v in other.items() if k != "labels"})
            model(**given)
    with torch.no_grad():
        model(**given)  # a prompt that has no answer yet
    everything = inputs["attention_mask"].bool().tolist()
    assert seen == [expected, everything, expected, everything]


def test_features_of_texts_are_free_of_noise(chosen):
    """NEFTune puts a hook on the embedding, which adds noise while it trains."""
    model, _ = chosen
    embedding, found = model.get_input_embeddings(), []
    base = HeldBase(model)
    base.reset()
    base.rows(lambda rows: found.append(rows.text))
    inputs, _ = answered()
    model.eval()
    model(**inputs)
    handle = embedding.register_forward_hook(lambda m, a, output: output + 1 if m.training else output)
    model.train()(**inputs)
    assert embedding.training
    handle.remove()
    base.reset()
    assert torch.equal(*found)
