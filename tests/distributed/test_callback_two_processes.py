"""`ContinualLearner` in a trainer of one's own, under torchrun with two gloo ranks."""

from __future__ import annotations

import subprocess
import sys

from launch import environment, free_port
from safetensors.torch import load_file


SCRIPT = """
import os
import sys
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments
from cl_plugins.callbacks import ContinualLearner

model_dir, out, batch, accumulate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(model_dir)

def rows(words):
    found = []
    for word in words * 4:
        prompt = tokenizer.encode("what colour is this ?")
        ids = [*prompt, tokenizer.encode(word)[0]]
        found.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + ids[-1:]})
    return found

lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
learner = ContinualLearner(AutoModelForCausalLM.from_pretrained(model_dir), "ewc", out, lora=lora, options={"weight": 1e3})
for name, words in {"one": ["red", "green"], "two": ["blue", "grey"]}.items():
    with learner.task(name) as task:
        Trainer(
            model=task.model, train_dataset=rows(words), data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[task.callback],
            args=TrainingArguments(
                output_dir=f"{out}/trainer", max_steps=3, learning_rate=1e-2, per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulate, save_strategy="no", report_to=[], use_cpu=True,
                disable_tqdm=True, ddp_backend="gloo" if "RANK" in os.environ else None, optim="sgd", max_grad_norm=0.1,
            ),
        ).train()
"""


def test_two_processes_learn_what_one_learns(llama, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    single, double = tmp_path / "single", tmp_path / "double"
    alone = [sys.executable, str(script), str(llama), str(single), "4", "2"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
    ]
    both = [*launcher, str(script), str(llama), str(double), "4", "1"]
    for command in (alone, both):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    for task in ("01_one", "02_two"):
        for name in ("update", "fisher"):
            a, b = (load_file(out / "tasks" / task / f"{name}.safetensors") for out in (single, double))
            difference = sum(float((a[n] - b[n]).double().square().sum()) for n in a) ** 0.5
            assert difference <= 1e-3 * sum(float(a[n].double().square().sum()) for n in a) ** 0.5, (task, name)
    plain = load_file(single / "tasks" / "02_two" / "update.safetensors")
    first = load_file(single / "tasks" / "01_one" / "update.safetensors")
    assert any(plain[n].ne(first[n]).any() for n in plain)
