"""Two tasks with TRL's `SFTTrainer` and a callback, tested after each of them, and reported as a run.

    python examples/python/trl_sft.py --model Qwen/Qwen2.5-0.5B-Instruct --method inclora --out out/sft
    cl-plugins status out/sft

The tests have the same form as the training sets: prompts and completions.
"""

from __future__ import annotations

import argparse
import json

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from cl_plugins.callbacks import ContinualLearner


TASKS = {
    "colours": [{"prompt": "What colour is the sky?", "completion": " blue"}] * 8,
    "numbers": [{"prompt": f"What is {n} plus one?", "completion": f" {n + 1}"} for n in range(8)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="inclora")
    parser.add_argument("--options", type=json.loads, default={}, help="the method's options as JSON")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    learner = ContinualLearner(
        model,
        args.method,
        args.out,
        lora=lora,
        options=args.options,
        tokenizer=tokenizer,
        tasks=list(TASKS),
        tests=TASKS,  # your own held-out questions; these small tasks are asked what they were taught
        evaluation={"max_new_tokens": 8},
    )
    learner.evaluate()  # the base, before any training
    for name, rows in TASKS.items():
        if name not in learner.finished:
            with learner.task(name) as task:
                SFTTrainer(
                    model=task.model,
                    processing_class=tokenizer,
                    train_dataset=Dataset.from_list(rows),
                    callbacks=[task.callback],
                    args=SFTConfig(
                        output_dir=f"{args.out}/trainer/{name}",
                        max_steps=args.steps,
                        learning_rate=1e-3,
                        per_device_train_batch_size=4,
                        logging_steps=5,
                        save_strategy="no",
                        bf16=torch.cuda.is_available(),
                        report_to=[],
                    ),
                ).train()
        learner.evaluate()  # the tasks so far
    print(f"learned: {', '.join(learner.finished)}; report: {learner.finish() / 'report.html'}")


if __name__ == "__main__":
    main()
