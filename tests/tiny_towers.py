"""Tiny models whose towers give pictures in other ways than LLaVA's: Pixtral, LLaVA-NeXT, LLaVA-OneVision."""

from __future__ import annotations

from pathlib import Path

import tiny


PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


def _text(tokenizer, kind):
    import transformers

    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    more = {"num_key_value_heads": 4, "head_dim": 12, "sliding_window": None} if kind == "Mistral" else {}
    config = getattr(transformers, f"{kind}Config")
    return config(vocab_size=len(tokenizer), max_position_embeddings=2048, **sizes, **ends, **more)


def _save(model, processor, folder: Path) -> Path:
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 3
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return folder


def build_pixtral(folder: Path) -> Path:
    """A LLaVA with the tower of Pixtral and a Mistral decoder."""
    import torch
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        PixtralImageProcessor,
        PixtralProcessor,
        PixtralVisionConfig,
    )

    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    config = LlavaConfig(
        text_config=_text(tokenizer, "Mistral"),
        vision_config=PixtralVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    images = PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    processor = PixtralProcessor(image_processor=images, tokenizer=tokenizer, patch_size=8, image_token="[IMG]")
    return _save(LlavaForConditionalGeneration(config), processor, folder)


def build_next(folder: Path) -> Path:
    """A LLaVA-NeXT, which cuts pictures into tiles of 32 x 32."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    config = LlavaNextConfig(
        text_config=_text(tokenizer, "Llama"),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
    )
    processor = LlavaNextProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    return _save(LlavaNextForConditionalGeneration(config), processor, folder)


def build_onevision(folder: Path) -> Path:
    """A LLaVA-OneVision with the tower of SigLIP."""
    import torch
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        SiglipVisionConfig,
    )

    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<video>"]})
    config = LlavaOnevisionConfig(
        text_config=_text(tokenizer, "Llama"),
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio="anyres_max_2",
    )
    images = LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS)
    processor = LlavaOnevisionProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32}),
        num_image_tokens=16, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    return _save(LlavaOnevisionForConditionalGeneration(config), processor, folder)
