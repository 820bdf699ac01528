"""Tiny models and data sets, built from config in seconds, without any hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


WORDS = "USER: ASSISTANT: what colour is this picture? red green blue grey A B C D . , : ? ! A. B. C. D. yes no the a one two three square question answer".split()
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


def build_tokenizer() -> Any:
    """A tokenizer of 400 tokens, trained on the spot."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!'-()\n▁"),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), SYSTEM] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def build_llava(folder: Path, seed: int = 0, dtype: str = "float32", widths: tuple[int, int] = (48, 32)) -> Path:
    """A LLaVA-shaped model of about 100 k parameters, with processor, saved as fp32 (or another dtype).

    ``widths`` are the hidden sizes of language model and vision tower (4-bit kernels want multiples of 64).
    """
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=widths[0], intermediate_size=2 * widths[0], num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=3, tie_word_embeddings=False,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=widths[1],
        intermediate_size=2 * widths[1],
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=32,
    )
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default", vision_feature_layer=-2, pad_token_id=3,  # type: ignore[call-arg]
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    model = model.to(getattr(torch, dtype))
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 3
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_llama(folder: Path, seed: int = 0, tied: bool = False, width: int = 32) -> Path:
    """A text-only LLaMA of about 60 k parameters, whose output layer may share its weight with the input embedding.

    ``width`` is the hidden size, of two heads (vLLM's kernels for the CPU want heads of 32).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=3, tie_word_embeddings=tied,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "grey": (128, 128, 128)}


def build_data(
    folder: Path,
    tasks: tuple[str, ...] = ("one", "two", "three"),
    train: int = 24,
    test: int = 6,
    text_only: bool = False,
) -> Path:
    """One-token answers about plain colours; every task permutes the letters, so that tasks conflict."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    info = {}
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    for number, task in enumerate(tasks):
        for split, count in (("train", train), ("test", test)):
            records = []
            for i in range(count):
                k = int(rng.integers(4))
                letter = "ABCD"[(k + number) % 4]
                record: dict[str, Any] = {"id": f"{task}-{split}-{i}", "options": ["one", "two", "three", "four"]}
                if text_only:
                    question = f"what colour is {names[k]}?"
                else:
                    noise = rng.integers(-20, 20, (16, 16, 3))
                    picture = np.clip(np.array(COLOURS[names[k]]) + noise, 0, 255).astype("uint8")
                    path = folder / "images" / f"{task}_{split}_{i}.png"
                    path.parent.mkdir(exist_ok=True)
                    Image.fromarray(picture).save(path)
                    record["images"] = [f"images/{path.name}"]
                    question = "<image>what colour is this picture?"
                record["messages"] = [{"from": "human", "value": question}, {"from": "gpt", "value": letter}]
                records.append(record)
            name = f"{task}_{split}"
            (folder / f"{name}.json").write_text(json.dumps(records))
            columns = {"messages": "messages"} if text_only else {"messages": "messages", "images": "images"}
            info[name] = {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1))
    return folder


def stream(tasks: tuple[str, ...] = ("one", "two", "three")) -> dict[str, Any]:
    """An inline stream of the small tasks."""
    return {
        "name": "tiny",
        "tasks": [
            {
                "name": t,
                "train": f"{t}_train",
                "test": f"{t}_test",
                "scorer": "choice_accuracy",
                "options_column": "options",
                "modality": t,
            }
            for t in tasks
        ],
    }


def checked(keys: dict[str, Any], *, data: bool = True) -> Any:
    """The checked recipe, as a run starts from it; `RecipeError` with every problem."""
    from ..host.llama_factory import LlamaFactoryHost
    from ..run.check import check

    return check(LlamaFactoryHost(), keys, data=data)


def checked_block(keys: dict[str, Any]) -> Any:
    """As `checked`, without checking any file."""
    return checked(keys, data=False)


def recipe(
    model: Path,
    data: Path,
    out: Path,
    method: str | dict[str, Any] = "inclora",
    tasks: tuple[str, ...] = ("one", "two", "three"),
    text_only: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """A complete recipe; keyword arguments are LLaMA-Factory keys, ``cl`` updates the block."""
    method = {"name": method} if isinstance(method, str) else method
    block = {"stream": stream(tasks), "method": method, "eval": {"max_new_tokens": 3}}
    block.update(more.pop("cl", {}))
    keys = {
        "model_name_or_path": str(model), "template": "vicuna" if text_only else "llava", "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_target": "all", "lora_rank": 4, "additional_target": "multi_modal_projector", "dataset_dir": str(data),
        "output_dir": str(out), "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 4,
        "learning_rate": 1e-2, "lr_scheduler_type": "cosine", "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "seed": 7, "cutoff_len": 256, "logging_steps": 1, "cl": block,
    }  # fmt: skip
    if text_only:
        keys.pop("additional_target")
    if method["name"] == "seqfull":
        for key in ("lora_target", "lora_rank", "additional_target"):
            keys.pop(key, None)
        keys.update(finetuning_type="full", learning_rate=1e-3, freeze_multi_modal_projector=False)
    keys.update(more)
    return keys
