"""Sizes of the models and trainings of `benchmarks.gpu`, and how the models are made: random weights, nothing from a hub.

Tokenizer and processor are those of the demo's base, which is in the package; pictures and vocabulary get the size of the shape. The rows of
the output layer that belong to special tokens, or to no token, are zero: of thousands of other logits one is always larger, so no answer ends
before `max_new_tokens`, whoever generates it, and every answer is a text.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A LLaVA: LLaMA behind a CLIP tower.

    Attributes:
        hidden: Width of the language model; ``mlp`` that of its feed-forward layers.
        layers: Its layers; ``heads`` the heads of each.
        vocabulary: Rows of the embedding; at least as many as the tokenizer has.
        tower: Width, feed-forward width, layers and heads of the vision tower.
        side: Pictures in pixels; ``patch`` pixels become a token.
    """

    hidden: int
    mlp: int
    layers: int
    heads: int
    vocabulary: int
    tower: tuple[int, int, int, int]
    side: int
    patch: int


@dataclass(frozen=True)
class Scale:
    """Everything that has a size.

    Attributes:
        name: ``full`` or ``tiny``.
        shapes: Model -> shape.
        batch: Samples per step; ``steps`` optimizer steps per task, of which ``warm`` are not counted.
        items: Test items; ``eval_batch`` are answered at once.
        cutoff: ``cutoff_len``.
        workers: Processes that read training pictures.
        rank: Of a LoRA.
        gpu: Whether the models are made and trained on the card, in bf16; else on the CPU in fp32.
    """

    name: str
    shapes: dict[str, Shape]
    batch: int
    steps: int
    warm: int
    items: int
    eval_batch: int
    cutoff: int
    workers: int
    rank: int
    gpu: bool

    def plain(self) -> dict[str, Any]:
        """As plain dictionaries, for records and hashes."""
        return json.loads(json.dumps(asdict(self)))


_CLIP_L = (1024, 4096, 24, 16)
#: LLaVA-1.5-7B's proportions, and those of TinyLlama with multi-head attention behind the same tower.
FULL = Scale(
    "full",
    {
        "7b": Shape(4096, 11008, 32, 32, 32064, _CLIP_L, 336, 14),
        "1b": Shape(2048, 5632, 22, 32, 32064, _CLIP_L, 336, 14),
    },
    batch=4, steps=10, warm=4, items=128, eval_batch=32, cutoff=1024, workers=4, rank=16, gpu=True,
)  # fmt: skip
TINY = Scale(
    "tiny",
    {"7b": Shape(64, 128, 2, 4, 768, (32, 64, 2, 2), 32, 8), "1b": Shape(32, 64, 2, 2, 768, (32, 64, 2, 2), 32, 8)},
    batch=2, steps=4, warm=1, items=8, eval_batch=4, cutoff=512, workers=0, rank=4, gpu=False,
)  # fmt: skip

TASKS = ("one", "two")
BENCH = "bench"  # the test set that `benchmarks.eval.run.recipe` names
WORDS = "look at the picture and say what you see of colour shape size place light dark left right above below".split()
_MARK = "made.json"


def demo_base() -> Path:
    """Folder of the demo's base in the package."""
    return Path(str(files("cl_plugins.data.demo") / "base"))


def is_made(folder: Path, shape: Shape) -> bool:
    """Whether a folder holds the whole model of a shape.

    Args:
        folder: Where `make_base` writes.
        shape: The shape.
    """
    mark = folder / _MARK
    return mark.is_file() and json.loads(mark.read_text(encoding="utf-8"))["shape"] == json.loads(
        json.dumps(asdict(shape))
    )


def make_base(folder: Path, shape: Shape, *, gpu: bool, seed: int = 0) -> dict[str, Any]:
    """Make a model with random weights and save it with tokenizer and processor.

    Args:
        folder: Where it is saved; what lies there is removed.
        shape: The shape.
        gpu: Make it on the card in bf16, else on the CPU in fp32.
        seed: Of the weights.

    Returns:
        ``{"parameters", "dtype", "bytes"}``.
    """
    import torch
    from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    shutil.rmtree(folder, ignore_errors=True)
    processor = AutoProcessor.from_pretrained(demo_base())
    config = configured(LlavaConfig.from_pretrained(demo_base()), shape)
    dtype = torch.bfloat16 if gpu else torch.float32
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda" if gpu else "cpu"):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    silence(model, processor.tokenizer)
    model.save_pretrained(folder, max_shard_size="1GB")
    image = processor.image_processor
    image.size, image.crop_size = {"shortest_edge": shape.side}, {"height": shape.side, "width": shape.side}
    processor.patch_size = shape.patch
    processor.tokenizer.model_max_length = config.text_config.max_position_embeddings
    processor.save_pretrained(folder)
    _remember_hashes(folder)
    found = {
        "parameters": sum(p.numel() for p in model.parameters()), "dtype": str(dtype).removeprefix("torch."),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }  # fmt: skip
    (folder / _MARK).write_text(json.dumps({"shape": asdict(shape), **found}), encoding="utf-8")
    return found


def configured(config: Any, shape: Shape) -> Any:
    """The demo's configuration with the sizes of a shape.

    Args:
        config: A `LlavaConfig`, changed in place.
        shape: The shape.
    """
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = shape.hidden, shape.mlp, shape.layers
    text.num_attention_heads = text.num_key_value_heads = shape.heads
    text.head_dim, text.vocab_size = shape.hidden // shape.heads, shape.vocabulary
    text.max_position_embeddings, text.initializer_range = 4096, 0.02
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers, vision.num_attention_heads = shape.tower
    vision.image_size, vision.patch_size, vision.projection_dim = shape.side, shape.patch, shape.tower[0]
    config.image_seq_length = (shape.side // shape.patch) ** 2
    return config


def silence(model: Any, tokenizer: Any) -> None:
    """Set the rows of the output layer to zero that end an answer, or that are no text.

    Args:
        model: The model, changed in place.
        tokenizer: Its tokenizer, with fewer tokens than the output layer has rows.
    """
    import torch

    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight[sorted(tokenizer.all_special_ids)] = 0
        weight[len(tokenizer) :] = 0


def _remember_hashes(folder: Path) -> None:
    """Hash the weights once: every run identifies its base by them."""
    from cl_plugins.base.hashes import cached_hashes

    list(cached_hashes(sorted(folder.glob("*.safetensors"))))


def make_data(folder: Path, scale: Scale, seed: int = 0) -> Path:
    """Two training sets and a test set of noise pictures with questions of random words and lengths.

    Args:
        folder: Where they are written; left alone if they are there.
        scale: Sizes.
        seed: Of words and noise.

    Returns:
        The folder.
    """
    import numpy as np
    from PIL import Image

    if (folder / "dataset_info.json").is_file():
        return folder
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = []
    for number in range(16):
        side = scale.shapes["7b"].side
        pictures.append(f"pictures/{number}.png")
        Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype="uint8")).save(folder / pictures[-1])
    info = {}
    counts = {**dict.fromkeys(TASKS, scale.batch * scale.steps), BENCH: scale.items}
    for name, count in counts.items():
        records = []
        for number in range(count):
            asked = " ".join(rng.choices(WORDS, k=rng.randint(6, 60)))
            answer = " ".join(rng.choices(WORDS, k=rng.randint(8, 16)))
            turns = [{"from": "human", "value": f"<image>\n{asked}?"}, {"from": "gpt", "value": answer}]
            records.append({"id": f"{name}-{number}", "conversations": turns, "images": [rng.choice(pictures)]})
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
        columns = {"messages": "conversations", "images": "images"}
        info[name] = {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return folder
