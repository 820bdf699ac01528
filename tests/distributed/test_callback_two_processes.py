"""`ContinualLearner` in a custom trainer, under torchrun with two gloo ranks."""

from __future__ import annotations

import json
import sys

import pytest
from launch import execute, free_port
from running import difference
from safetensors.torch import load_file

from cl_plugins.contract.carry import Carry
from cl_plugins.replay.store import Buffer


pytestmark = pytest.mark.slow

SCRIPT = """
import json
import os
import sys
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments
from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin

class Mine(ContinualTrainerMixin, Trainer):
    pass

model_dir, out, batch, accumulate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
method, options, replay = json.loads(sys.argv[5])
tokenizer = AutoTokenizer.from_pretrained(model_dir)

def rows(words):
    found = []
    for word in words * 4:
        prompt = tokenizer.encode("what colour is this ?")
        ids = [*prompt, tokenizer.encode(word)[0]]
        found.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + ids[-1:]})
    return found

lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
learner = ContinualLearner(AutoModelForCausalLM.from_pretrained(model_dir), method, out, lora, options, replay=replay)
for name, words in {"one": ["red", "green"], "two": ["blue", "grey"]}.items():
    with learner.task(name) as task:
        Mine(
            model=task.model, terms=task.terms, train_dataset=rows(words), data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[task.callback],
            args=TrainingArguments(
                output_dir=f"{out}/trainer", max_steps=3, learning_rate=1e-2, per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulate, save_strategy="no", report_to=[], use_cpu=True,
                disable_tqdm=True, ddp_backend="gloo" if "RANK" in os.environ else None, optim="sgd", max_grad_norm=0.1,
            ),
        ).train()
"""


@pytest.mark.parametrize(
    ("method", "options", "replay", "statistic"),
    [
        (
            "ewc",
            {"weight": 1e3},
            {"capacity_per_task": 2, "selection": "highest_loss", "mixing": "separate"},
            "fisher",
        ),
        ("der", {}, {"capacity_per_task": 2, "batch": 2}, "update"),
    ],
)
def test_two_processes_learn_what_one_learns(llama, tmp_path, method, options, replay, statistic):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    single, double = tmp_path / "single", tmp_path / "double"
    given = json.dumps([method, options, replay])
    alone = [sys.executable, str(script), str(llama), str(single), "4", "2", given]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
    execute(alone)
    execute(lambda: [*launcher, str(free_port()), str(script), str(llama), str(double), "4", "1", given])
    for task in ("01_one", "02_two"):
        for name in {"update", statistic}:
            a, b = (load_file(out / "tasks" / task / f"{name}.safetensors") for out in (single, double))
            assert difference(a, b) <= 1e-3, (task, name)
    plain = load_file(single / "tasks" / "02_two" / "update.safetensors")
    first = load_file(single / "tasks" / "01_one" / "update.safetensors")
    assert any(plain[n].ne(first[n]).any() for n in plain)
    kept = [[s.uid for s in Buffer.open(Carry.open(out / "carry")).samples] for out in (single, double)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 4
