"""Make the demo's base from nothing: a LLaVA-shaped model pretrained on everyday photographs.

``python -m cl_plugins.data.demo.build_base --out DIR`` takes some minutes on two cores and gives the shipped weights
again (bit for bit on the same machine and library versions). The model learns to look at 32 x 32 pictures, to answer with
the letter of an option whose order never changes, and to caption. It sees no medical picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from .photographs import everyday_samples, words
from .tasks import SIDE


SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PATCH = 8
VOCABULARY = 800


def build_tokenizer() -> Any:
    """Byte-level BPE, so that any text can be encoded; the words of the demo are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SYSTEM, *words()] * 50, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def build_model(tokenizer: Any) -> Any:
    """CLIP vision tower and LLaMA, joined by LLaVA's two-layer projector; about 1.5 million parameters, fp32."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=3, tie_word_embeddings=False,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=PATCH,
        projection_dim=128,
    )  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default", vision_feature_layer=-1, pad_token_id=3,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 3
    return model


def build_processor(tokenizer: Any) -> Any:
    """Pictures of 32 x 32 pixels, 16 picture tokens each."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip


def encode(tokenizer: Any, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Tokens and labels as LLaMA-Factory's ``llava`` template makes them."""
    picture = "<image>" * (SIDE // PATCH) ** 2
    prompt = f"<s>{SYSTEM}USER: {question.replace('<image>', picture)} ASSISTANT:"
    ask = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reply = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return [*ask, *reply], [-100] * len(ask) + reply


def batches(samples: list[Any], tokenizer: Any, processor: Any, size: int, steps: int, seed: int) -> Any:
    """Padded batches in a seeded order, sorted into similar lengths."""
    import numpy as np
    import torch

    rng = np.random.default_rng(seed)
    encoded = [encode(tokenizer, question, answer) for _, question, answer in samples]
    pixels = processor.image_processor(images=[p for p, _, _ in samples], return_tensors="pt")["pixel_values"]
    for _ in range(steps):
        chosen = rng.integers(len(samples), size=size)
        longest = max(len(encoded[i][0]) for i in chosen)
        ids = torch.full((size, longest), tokenizer.pad_token_id)
        labels = torch.full((size, longest), -100)
        for row, i in enumerate(chosen):
            tokens, target = encoded[i]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, : len(target)] = torch.tensor(target)
        yield {"input_ids": ids, "attention_mask": (ids != tokenizer.pad_token_id).long(), "labels": labels, "pixel_values": pixels[chosen]}


def pretrain(model: Any, tokenizer: Any, processor: Any, *, steps: int, size: int, rate: float, seed: int) -> list[float]:
    """Train everything with AdamW and a cosine schedule.

    Returns:
        The loss at every step.
    """
    import torch
    from transformers import get_cosine_schedule_with_warmup

    samples = everyday_samples(12_000, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    losses = []
    model.train()
    started = time.monotonic()
    for number, batch in enumerate(batches(samples, tokenizer, processor, size, steps, seed), start=1):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if number % 50 == 0:
            recent = sum(losses[-50:]) / 50
            sys.stderr.write(f"step {number}/{steps}: loss {recent:.3f}, {time.monotonic() - started:.0f} s\n")
    return losses


def accuracy(model: Any, tokenizer: Any, processor: Any, seed: int) -> dict[str, float]:
    """Share of new everyday samples whose answer is exactly right, by kind of question."""
    import torch

    samples = everyday_samples(400, seed)
    right: dict[str, list[bool]] = {}
    model.eval()
    with torch.no_grad():
        for batch_start in range(0, len(samples), 40):
            part = samples[batch_start : batch_start + 40]
            for (_, question, answer), batch in zip(part, _single(part, tokenizer, processor), strict=True):
                reply = tokenizer(answer, add_special_tokens=False)["input_ids"]
                output = model.generate(**batch, max_new_tokens=len(reply) + 1, do_sample=False)
                got = output[0, batch["input_ids"].shape[1] :].tolist()
                right.setdefault(question.split("\n")[0].removeprefix("<image>"), []).append(got[: len(reply)] == reply)
    return {name: round(100 * sum(values) / len(values), 1) for name, values in sorted(right.items())}


def _single(part: list[Any], tokenizer: Any, processor: Any) -> Any:
    import torch

    for picture, question, _ in part:
        tokens, labels = encode(tokenizer, question, "")
        ids = torch.tensor([tokens[: labels.index(tokenizer.eos_token_id)]])
        pixels = processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def main() -> int:
    """Build, pretrain, test and save the base."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m cl_plugins.data.demo.build_base", description="Build the demo's base.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    processor = build_processor(tokenizer)
    count = sum(p.numel() for p in model.parameters())
    sys.stderr.write(f"{count:,} parameters, {len(tokenizer)} tokens\n")
    pretrain(model, tokenizer, processor, steps=args.steps, size=args.batch_size, rate=args.learning_rate, seed=args.seed)
    for question, share in accuracy(model, tokenizer, processor, args.seed + 1).items():
        sys.stderr.write(f"{share:5.1f} %  {question}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
