"""`ContinualLearner` in a custom trainer, under torchrun with two gloo ranks."""

from __future__ import annotations

import json
import sys

import pytest
from launch import execute, free_port
from running import difference
from safetensors.torch import load_file

from cl_plugins.contract.carry import Carry
from cl_plugins.evaluation.results import read_results
from cl_plugins.replay.store import Buffer
from cl_plugins.run.status import collect


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
method, options, replay, tests = json.loads(sys.argv[5])
tokenizer = AutoTokenizer.from_pretrained(model_dir)

def rows(words):
    found = []
    for word in words * 4:
        prompt = tokenizer.encode("what colour is this ?")
        ids = [*prompt, tokenizer.encode(word)[0]]
        found.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + ids[-1:]})
    return found

lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
model = AutoModelForCausalLM.from_pretrained(model_dir)
run = {"tasks": list(tests), "tests": tests, "evaluation": {"max_new_tokens": 2}} if tests else {}
learner = ContinualLearner(model, method, out, lora, options, replay=replay, **run)
if run:
    learner.evaluate(1)
for name, words in {"one": ["red", "green"], "two": ["blue", "grey"]}.items():
    if name in learner.finished:
        continue
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
    if run:
        assert set(learner.evaluate(1)) == set(learner.finished)
if run:
    learner.finish()
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
    given = json.dumps([method, options, replay, None])
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


def test_two_processes_write_one_run(llama, tmp_path):
    """Each answers its share, rank 0 writes; both know the scores, and another start finds everything done."""
    words = ("red", "green", "blue")
    tests = {n: [{"prompt": f"what colour is {w} ?", "reference": w} for w in words] for n in ("one", "two")}
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
    given = json.dumps(["seqlora", {}, None, tests])

    def start():
        return execute(lambda: [*launcher, str(free_port()), str(script), str(llama), str(out), "4", "1", given])

    start()
    journal = (out / "journal.jsonl").read_bytes()
    state = collect(out, verify=True)
    assert state["finished"]
    assert state["damaged"] == []
    assert {json.loads(line)["details"].get("processes") for line in journal.splitlines()} == {2, None}
    matrix = read_results(out).matrix
    assert all(matrix.get(row, "one") is not None for row in ("zero_shot", "after_one", "after_two"))
    start()
    assert (out / "journal.jsonl").read_bytes() == journal
