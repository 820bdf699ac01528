"""Two picture tasks with TRL's `SFTTrainer`, for a LLaVA-shaped model.

    python examples/python/trl_vision.py --model llava-hf/llava-1.5-7b-hf --method inclora --out out/sft_vision

The pictures stand in a column `images`, as TRL wants them; its own collator makes the batches.
"""

from __future__ import annotations

import argparse
import json

import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
from trl import SFTConfig, SFTTrainer

from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "grey": (128, 128, 128)}
TASKS = {
    "colour": [("What colour is this?", name, rgb) for name, rgb in COLOURS.items()],
    "bright": [("Is this bright?", answer, (grey,) * 3) for answer, grey in [("no", 10), ("yes", 250)] * 2],
}


class MyTrainer(ContinualTrainerMixin, SFTTrainer):
    """TRL's trainer; the mixin lets methods such as LwF look at the logits too."""


def row(processor, question: str, answer: str, rgb: tuple[int, int, int]) -> dict:
    """TRL adds no special tokens to pictures' prompts, so that they are written here."""
    tokenizer = processor.tokenizer
    return {
        "prompt": f"{tokenizer.bos_token}USER: {processor.image_token}\n{question} ASSISTANT:",
        "completion": f" {answer}{tokenizer.eos_token}",
        "images": [Image.new("RGB", (64, 64), rgb)],
    }


def question(processor, text: str, answer: str, rgb: tuple[int, int, int]) -> dict:
    """A row of a test: the prompt as in training, and the answer without special tokens."""
    return {**row(processor, text, answer, rgb), "reference": answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="inclora")
    parser.add_argument("--options", type=json.loads, default={}, help="the method's options as JSON")
    parser.add_argument("--replay", type=int, default=0, help="samples of every task to keep and train on again")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.model)
    model = LlavaForConditionalGeneration.from_pretrained(args.model)
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    replay = {"capacity_per_task": args.replay}
    learner = ContinualLearner(
        model,
        args.method,
        args.out,
        lora=lora,
        options=args.options,
        replay=replay,
        tokenizer=processor,  # it reads the pictures of the tests
        tasks=list(TASKS),
        tests={name: [question(processor, *given) for given in rows] for name, rows in TASKS.items()},
        evaluation={"max_new_tokens": 8},
    )
    for name, rows in TASKS.items():
        if name not in learner.finished:
            with learner.task(name) as task:
                MyTrainer(
                    model=task.model,
                    terms=task.terms,
                    callbacks=[task.callback],
                    processing_class=processor,
                    train_dataset=Dataset.from_list([row(processor, *given) for given in rows]),
                    args=SFTConfig(
                        output_dir=f"{args.out}/trainer/{name}",
                        max_steps=args.steps,
                        learning_rate=1e-3,
                        per_device_train_batch_size=2,
                        max_length=None,  # a cut would take picture tokens away
                        logging_steps=5,
                        save_strategy="no",
                        bf16=torch.cuda.is_available(),
                        report_to=[],
                    ),
                ).train()
        learner.evaluate()
    print(f"learned: {', '.join(learner.finished)}; report: {learner.finish() / 'report.html'}")


if __name__ == "__main__":
    main()
