"""Three small text tasks, one after the other, with plain `transformers.Trainer`; tested, and reported as a run.

    python examples/python/transformers_trainer.py --model Qwen/Qwen2.5-0.5B --method inclora --out out/inclora
    cl-plugins report out/inclora

Run it again after it was stopped: learned tasks are not learned twice, tests that were made are not made again.
"""

from __future__ import annotations

import argparse
import json

from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin
from cl_plugins.streams import Task


TASKS = {
    "colours": [(f"What colour is the {thing}?", colour) for thing, colour in [("sky", "blue"), ("grass", "green")]],
    "numbers": [(f"What is {n} plus one?", str(n + 1)) for n in range(1, 9)],
    "letters": [(f"Which letter follows {a}?", b) for a, b in zip("ABCDEFG", "BCDEFGH", strict=True)],
}


class MyTrainer(ContinualTrainerMixin, Trainer):
    """Any trainer of yours; the mixin lets methods such as LwF look at the logits too."""


def encode(tokenizer, question: str, answer: str) -> dict:
    prompt = tokenizer.encode(f"{question}\n")
    reply = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    ids = prompt + reply
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + reply}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="inclora")
    parser.add_argument("--options", type=json.loads, default={}, help="the method's options as JSON")
    parser.add_argument("--replay", type=int, default=0, help="samples of every task to keep and train on again")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--report-to", default="none", help="a tracker: it gets one run with losses, cells and pictures"
    )
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    replay = {"capacity_per_task": args.replay}
    learner = ContinualLearner(
        model,
        args.method,
        args.out,
        lora=lora,
        options=args.options,
        replay=replay,
        tokenizer=tokenizer,
        tasks=[Task(name, scorer="exact_match", max_new_tokens=8) for name in TASKS],
        tests={  # your own held-out questions; these small tasks are asked what they were taught
            name: [{"prompt": f"{question}\n", "reference": answer} for question, answer in pairs]
            for name, pairs in TASKS.items()
        },
    )
    learner.evaluate()  # the base, before any training
    for name, pairs in TASKS.items():
        if name not in learner.finished:
            with learner.task(name) as task:
                trainer = MyTrainer(
                    model=task.model,
                    terms=task.terms,
                    callbacks=[task.callback],
                    train_dataset=[encode(tokenizer, *pair) for pair in pairs],
                    data_collator=DataCollatorForSeq2Seq(tokenizer),
                    args=TrainingArguments(
                        output_dir=f"{args.out}/trainer/{name}",
                        max_steps=args.steps,
                        learning_rate=1e-3,
                        per_device_train_batch_size=4,
                        logging_steps=5,
                        save_strategy="no",
                        report_to=args.report_to,
                    ),
                )
                trainer.train()
        learner.evaluate()  # the tasks so far
    print(f"learned: {', '.join(learner.finished)}; report: {learner.finish() / 'report.html'}")


if __name__ == "__main__":
    main()
