"""Samples of the buffer keep their labels in later tasks, or the task is refused before its first step."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin
from cl_plugins.contract.carry import Carry
from cl_plugins.replay import labels
from cl_plugins.replay.store import Buffer


WORDS = ("red", "green", "blue", "grey")
PAIRS = [{"prompt": f"what colour is {word} ? ", "completion": word} for word in WORDS]
TEXTS = [{"text": f"this is {word} and nothing else"} for word in WORDS]


class MyTrainer(ContinualTrainerMixin, SFTTrainer):
    pass


class Seen(TrainerCallback):
    """Counts steps."""

    def __init__(self):
        self.steps = 0

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps += 1


@pytest.fixture
def sft(llama, tmp_path):
    """Learn tasks with TRL; each is a list of rows and the settings that differ. Returns learner, tokenizer and steps."""
    tokenizer = AutoTokenizer.from_pretrained(llama)

    def train(task, rows, more=(), **given):
        settings = SFTConfig(
            output_dir=str(tmp_path / "trainer"), max_steps=2, per_device_train_batch_size=4, save_strategy="no",
            report_to=[], use_cpu=True, disable_tqdm=True, bf16=False, gradient_checkpointing=False, seed=1, **given,
        )  # fmt: skip
        made = MyTrainer(
            task.model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            terms=task.terms, callbacks=[task.callback, *more],
        )  # fmt: skip
        made.train()

    def learn(*tasks, method="seqlora", **replay):
        lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        model = AutoModelForCausalLM.from_pretrained(llama)
        seen = Seen()
        learner = ContinualLearner(
            model, method, tmp_path / "state", lora=lora, replay={"capacity_per_task": 2, **replay}
        )
        learn.learner, learn.seen = learner, seen
        for number, (rows, given) in enumerate(tasks):
            seen.steps = 0
            with learner.task(f"t{number}") as task:
                train(task, rows, [seen], **given)
        return learner

    learn.folder, learn.tokenizer = tmp_path / "state", tokenizer
    return learn


def records(folder):
    return [record for _, record in Buffer.open(Carry.open(folder / "carry")).entries()]


def task_names(folder):
    return Buffer.open(Carry.open(folder / "carry")).tasks


def tokenised(tokenizer):
    found = []
    for word in WORDS:
        ids = tokenizer.encode(f"what colour is {word} ?")
        found.append({"input_ids": ids, "labels": [-100] * (len(ids) - 1) + ids[-1:]})
    return found


REFUSED = [
    pytest.param((PAIRS, {}), (TEXTS, {}), {}, "label tokens", id="pairs-texts"),
    pytest.param((PAIRS, {}), (TEXTS, {}), {"mixing": "separate"}, "label tokens", id="separate"),
    pytest.param((PAIRS, {}), (TEXTS, {}), {"method": "der"}, "label tokens", id="der"),
    pytest.param((PAIRS, {}), (PAIRS, {"completion_only_loss": False}), {}, "label tokens", id="other-loss"),
    pytest.param((PAIRS, {"completion_only_loss": False}), (PAIRS, {}), {}, "label tokens", id="other-loss-back"),
    pytest.param((TEXTS, {}), (PAIRS, {}), {}, "KeyError: 'completion_mask'", id="texts-pairs"),
]


@pytest.mark.parametrize(("first", "second", "replay", "words"), REFUSED)
def test_a_task_that_would_train_on_other_labels_is_refused_before_its_first_step(sft, first, second, replay, words):
    with pytest.raises(CompatibilityError, match=words) as caught:
        sft(first, second, **replay)
    assert sft.seen.steps == 0
    assert sft.learner.finished == ("t0",)
    assert set(task_names(sft.folder)) == {"t0"}  # the buffer is that of the first task
    (problem,) = caught.value.problems
    assert "'t0'" in problem.what
    assert "`input_ids` and `labels`" in problem.fix


def test_the_message_has_both_numbers(sft):
    with pytest.raises(CompatibilityError) as caught:
        sft((PAIRS, {}), (TEXTS, {}))
    row = records(sft.folder)[0]["row"]
    was, now = sum(row["completion_mask"]), len(row["input_ids"])
    assert f"has {now} label tokens" in str(caught.value)
    assert f"had {was}" in str(caught.value)


ACCEPTED = [
    pytest.param(lambda t: (PAIRS, PAIRS), {}, id="pairs"),
    pytest.param(lambda t: (TEXTS, TEXTS), {}, id="texts"),
    pytest.param(lambda t: (TEXTS, PAIRS), {"mixing": "separate"}, id="texts-pairs-separate"),
    pytest.param(lambda t: (tokenised(t), tokenised(t)), {}, id="tokenised"),
]


@pytest.mark.parametrize(("rows", "replay"), ACCEPTED)
def test_what_keeps_its_labels_is_trained(sft, rows, replay):
    first, second = rows(sft.tokenizer)
    assert sft((first, {}), (second, {}), **replay).finished == ("t0", "t1")


def test_the_count_is_that_of_the_samples_own_collator(sft):
    sft((PAIRS, {}))
    kept = records(sft.folder)
    assert [record["labels"] for record in kept] == [sum(record["row"]["completion_mask"]) for record in kept]
    assert all(0 < record["labels"] < len(record["row"]["input_ids"]) for record in kept)


def test_a_third_task_looks_at_every_past_task(sft):
    """The second task fits the third, the first does not."""
    with pytest.raises(CompatibilityError, match=r"'t0'.*label tokens"):
        sft((PAIRS, {}), (PAIRS, {}), (PAIRS, {"completion_only_loss": False}))
    assert sft.learner.finished == ("t0", "t1")


def without_counts(monkeypatch):
    """Samples are kept as they were before counts were stored."""
    from cl_plugins.replay.rows import TrainerRows

    record = TrainerRows.record
    monkeypatch.setattr(
        TrainerRows, "record", lambda self, i: {k: v for k, v in record(self, i).items() if k != "labels"}
    )


def test_a_buffer_without_counts_is_still_read_and_compared_in_batches(sft, monkeypatch):
    without_counts(monkeypatch)
    with pytest.raises(CompatibilityError, match="completion_mask"):
        sft((TEXTS, {}), (TEXTS, {}), (PAIRS, {}))
    assert sft.learner.finished == ("t0", "t1")
    assert not any("labels" in record for record in records(sft.folder))


COLLATE = DataCollatorForLanguageModeling(pad_token_id=0, completion_only_loss=True)
MASKED = {"input_ids": [1, 5, 6, 7], "assistant_masks": [0, 0, 1, 1]}
WHOLE = {"input_ids": [1, 5, 6]}


class Stored(list):
    """Rows as `StoredRows` gives them."""

    def __init__(self, rows, counts):
        super().__init__(rows)
        self._counts = counts

    def labels(self, index):
        return self._counts[index]


def check(collate, own, stored, counts=None, mixed=True):
    tasks = ["t0"] * len(stored)
    labels.check(labels.Labels(collate, own), Stored(stored, counts or [None] * len(stored)), tasks, mixed=mixed)


@pytest.mark.parametrize(("own", "stored", "count"), [(WHOLE, MASKED, 2), (MASKED, WHOLE, 3)])
@pytest.mark.parametrize("known", [True, False])
def test_masks_that_only_some_rows_have(own, stored, count, known):
    with pytest.raises(CompatibilityError, match=r"one batch.*only one of them has 'assistant_masks'"):
        check(COLLATE, [own], [stored], [count if known else None])
    check(COLLATE, [own], [stored], [count if known else None], mixed=False)


def test_past_tasks_that_do_not_go_together_are_refused_also_where_own_samples_are_apart():
    with pytest.raises(CompatibilityError, match="one batch"):
        check(COLLATE, [WHOLE], [WHOLE, MASKED], [3, 2], mixed=False)


def test_a_count_beyond_the_first_samples_of_a_form():
    stored = [{"input_ids": [1, 5, 6], "labels": [-100, 5, 6]}] * 20 + [{"input_ids": [1], "completion_mask": [1]}]
    with pytest.raises(CompatibilityError, match=r"has 1 label tokens.*had 3"):
        check(COLLATE, stored[:1], stored, [2] * 20 + [3], mixed=False)


def test_a_collator_that_draws_is_not_compared():
    def draws(rows):
        ids = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": torch.where(torch.rand(ids.shape) < 0.5, ids, -100)}

    rows = [{"input_ids": list(range(1, 60))}] * 4
    made = labels.Labels(draws, rows)
    assert made.count(rows[0]) is None
    labels.check(made, Stored(rows, [3] * 4), ["t0"] * 4, mixed=True)


def test_a_collator_whose_labels_depend_on_the_batch_is_compared_only_alone():
    """It labels the padding too, as some users' do."""

    def padded(rows):
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
        return {"input_ids": ids, "labels": ids.clone()}

    rows = [{"input_ids": [1, 2]}, {"input_ids": [1, 2, 3]}]
    check(padded, rows, [{"input_ids": [4] * 7}], [7])
    with pytest.raises(CompatibilityError, match=r"has 7 label tokens.*had 5"):
        check(padded, rows, [{"input_ids": [4] * 7}], [5])


def test_a_collator_that_fails_only_for_its_own_single_rows_is_left_alone():
    def pairs(rows):
        if len(rows) < 2:
            raise ValueError("in pairs")
        return COLLATE(rows)

    check(pairs, [WHOLE] * 2, [WHOLE] * 2, [1, 1])


def test_random_states_and_rows_stay_as_they_are():
    def greedy(rows):
        random.random(), np.random.rand(), torch.rand(1)
        for row in rows:
            row["pixels"] += 1
            row["array"] += 1
        return COLLATE([{"input_ids": row.pop("input_ids")} for row in rows])

    def row():
        return {"input_ids": [1, 2, 3], "pixels": torch.zeros(2), "array": np.zeros(2)}

    own, stored = [row() for _ in range(3)], [row() for _ in range(3)]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    made = labels.Labels(greedy, own)
    labels.check(made, Stored(stored, [3] * 3), ["t0"] * 3, mixed=True)
    assert made.count(own[0]) == 3
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    for given in own + stored:
        assert given["input_ids"] == [1, 2, 3]
        assert not given["pixels"].any()
        assert not given["array"].any()
