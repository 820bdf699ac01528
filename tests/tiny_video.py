"""A tiny Qwen2-VL, which sees pictures and videos, and a stream of short videos."""

from __future__ import annotations

from pathlib import Path

import tiny
import tiny_media


SPECIAL = {
    name: f"<|{name}|>" for name in ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
}


def build_qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """A Qwen2-VL of about 100 k parameters with processor, saved as fp32."""
    import torch
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    torch.manual_seed(seed)
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL.values())})
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"], vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"], bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    tiny_media.save(model, folder, ids["im_end"])
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template="",
    )
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_videos(folder: Path, tasks: tuple[str, ...] = ("one", "two"), train: int = 8, test: int = 4) -> Path:
    """Two seconds of a plain colour that gets brighter; the answer is the colour's letter, another one in every task."""
    import av
    import numpy as np

    colours = list(tiny.COLOURS.values())

    def write(path: Path, kind: int, number: int, i: int, split: str) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=4)
            stream.width = stream.height = 56
            stream.pix_fmt = "yuv420p"
            for step in range(8):
                shade = np.array(colours[kind]) * (0.6 + 0.05 * step)
                frame = np.broadcast_to(shade.clip(0, 255).astype("uint8"), (56, 56, 3))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode(None))

    question = "<video>what colour is this picture?"
    return tiny_media.build_stream(folder, tasks, train, test, "videos", "videos", "mp4", question, write)
