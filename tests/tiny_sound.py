"""A tiny Qwen2-Audio, which hears sounds, and a stream of short sounds."""

from __future__ import annotations

import json
import math
import wave
from pathlib import Path

import tiny


RATE = 16000
SPECIAL = {"im_start": "<|im_start|>", "im_end": "<|im_end|>", "audio": "<|AUDIO|>"} | {
    name: f"<|{name}|>" for name in ("audio_bos", "audio_eos")
}
PITCHES = (200, 500, 1200, 3000)  # Hz


def build_qwen2_audio(folder: Path, seed: int = 0) -> Path:
    """A Qwen2-Audio of about 60 k parameters with processor, saved as fp32; it hears one second at most."""
    import torch
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    torch.manual_seed(seed)
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL.values())})
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    config = Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 3, "tie_word_embeddings": False,
        },
        audio_config={
            "model_type": "qwen2_audio_encoder", "num_mel_bins": 16, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64, "max_source_positions": 50,
        },
        audio_token_index=ids["audio"], bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    model = Qwen2AudioForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.generation_config.eos_token_id = ids["im_end"]
    model.generation_config.pad_token_id = 3
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    features = WhisperFeatureExtractor(feature_size=16, sampling_rate=RATE, chunk_length=1)
    Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_sounds(folder: Path, tasks: tuple[str, ...] = ("one", "two"), train: int = 8, test: int = 4) -> Path:
    """Tones of one pitch, of several lengths; the answer is the pitch's letter, another one in every task."""
    (folder / "sounds").mkdir(parents=True)
    info = {}
    for number, task in enumerate(tasks):
        for split, count in (("train", train), ("test", test)):
            records = []
            for i in range(count):
                k = i % len(PITCHES)
                path = folder / "sounds" / f"{task}_{split}_{i}.wav"
                # every file has bytes of its own, and the rows of a batch have different numbers of tokens
                length = RATE * (40 + 5 * (i % 7) + number + (split == "test") * 2) // 100
                _write(path, PITCHES[k], length)
                records.append(
                    {
                        "id": f"{task}-{split}-{i}", "options": ["one", "two", "three", "four"],
                        "audios": [f"sounds/{path.name}"],
                        "messages": [
                            {"from": "human", "value": "<audio>what is the answer?"},
                            {"from": "gpt", "value": "ABCD"[(k + number) % 4]},
                        ],
                    }
                )  # fmt: skip
            name = f"{task}_{split}"
            (folder / f"{name}.json").write_text(json.dumps(records))
            info[name] = {
                "file_name": f"{name}.json",
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "audios": "audios"},
            }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def _write(path: Path, pitch: float, length: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        samples = (int(20000 * math.sin(2 * math.pi * pitch * t / RATE)) for t in range(length))
        file.writeframes(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))


def read(path: Path):
    """The samples of a file of `build_sounds`, (samples,) float32, without TorchCodec."""
    import numpy as np

    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
