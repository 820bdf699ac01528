"""A trainer of somebody else's that is led by a learner; data, collator and settings are those that the host makes."""

from __future__ import annotations

from peft import LoraConfig
from transformers import Seq2SeqTrainer

from cl_plugins.callbacks import ContinualTrainerMixin
from cl_plugins.streams import Task


LORA = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


class OwnTrainer(ContinualTrainerMixin, Seq2SeqTrainer):
    """Model and LoRA are not the host's own."""


def learn(learner, name, keys):
    """Learn a task as a recipe with these keys learns it, seed and data set included, in all of its trainings."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    arguments = get_train_args(keys)
    tokens = load_tokenizer(arguments[0])
    template = get_template_and_fix_tokenizer(tokens["tokenizer"], arguments[1])
    module = get_dataset(template, *arguments[:3], stage="sft", **tokens)
    with learner.task(Task(name=name, modality=name)) as task:
        collator = SFTDataCollatorWith4DAttentionMask(
            template=template, model=None, pad_to_multiple_of=8, label_pad_token_id=-100, **tokens
        )
        for training in task.trainings():
            OwnTrainer(
                model=training.model, args=training.arguments(arguments[2]), data_collator=collator,
                terms=training.terms, callbacks=[training.callback],
                train_dataset=training.samples(module["train_dataset"]),
            ).train()  # fmt: skip


def alone(keys, name, number):
    """The keys of one task without `cl`; the seed is the one that a recipe gives the task with this number, from 1."""
    left = {key: value for key, value in keys.items() if key != "cl"}
    return left | {"dataset": f"{name}_train", "seed": keys["seed"] + 1000 * (number - 1)}
