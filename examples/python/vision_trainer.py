"""Two picture tasks for a LLaVA-shaped model with `transformers.Seq2SeqTrainer`.

python examples/python/vision_trainer.py --model llava-hf/llava-1.5-7b-hf --method inclora --out out/vision
"""

from __future__ import annotations

import argparse
import json

from peft import LoraConfig
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, Seq2SeqTrainer, Seq2SeqTrainingArguments

from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin
from cl_plugins.streams import Task


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220)}
STREAM = [
    (
        Task(name="colour", modality="photograph"),
        [("What colour is this?", name, rgb) for name, rgb in COLOURS.items()],
    ),
    (
        Task(name="bright", modality="drawing"),
        [("Is this bright?", "no", (10, 10, 10)), ("Is this bright?", "yes", (250, 250, 250))],
    ),
]


class MyTrainer(ContinualTrainerMixin, Seq2SeqTrainer):
    """Your trainer, with the methods' terms in its loss."""


class Collator:
    """Question, picture and answer as the model reads them; the loss sees the answer only."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows):
        import torch

        end = self.processor.tokenizer.eos_token
        prompts = [f"USER: <image>\n{question} ASSISTANT:" for question, _, _ in rows]
        texts = [f"{prompt} {row[1]}{end}" for prompt, row in zip(prompts, rows, strict=True)]
        images = [Image.new("RGB", (64, 64), row[2]) for row in rows]
        self.processor.tokenizer.padding_side = "right"
        batch = self.processor(text=texts, images=images, return_tensors="pt", padding=True)
        lengths = self.processor(text=prompts, images=images, return_tensors="pt", padding=True)["attention_mask"].sum(
            1
        )
        places = torch.arange(batch["input_ids"].shape[1])
        hidden = (places[None] < lengths[:, None]) | (batch["attention_mask"] == 0)
        batch["labels"] = batch["input_ids"].masked_fill(hidden, -100)
        return dict(batch)


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
    learner = ContinualLearner(model, args.method, args.out, lora=lora, options=args.options, replay=replay)
    for described, rows in STREAM:
        if described.name in learner.finished:
            continue
        with learner.task(described) as task:
            trainer = MyTrainer(
                model=task.model,
                terms=task.terms,
                callbacks=[task.callback],
                train_dataset=rows,
                data_collator=Collator(processor),
                args=Seq2SeqTrainingArguments(
                    output_dir=f"{args.out}/trainer/{described.name}",
                    max_steps=args.steps,
                    learning_rate=1e-3,
                    per_device_train_batch_size=2,
                    remove_unused_columns=False,
                    logging_steps=5,
                    save_strategy="no",
                    report_to=[],
                ),
            )
            trainer.train()
    print(f"learned: {', '.join(learner.finished)}")


if __name__ == "__main__":
    main()
