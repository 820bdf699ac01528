"""Two chat tasks with TRL's `SFTTrainer` and a callback; nothing else changes in your script.

python examples/python/trl_sft.py --model Qwen/Qwen2.5-0.5B-Instruct --method inclora --out out/sft
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
    learner = ContinualLearner(model, args.method, args.out, lora=lora, options=args.options)
    for name, rows in TASKS.items():
        if name in learner.finished:
            continue
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
    print(f"learned: {', '.join(learner.finished)}")


if __name__ == "__main__":
    main()
