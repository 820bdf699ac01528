"""A tiny Qwen2-Audio, which hears sounds, and a stream of short sounds."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import tiny
import tiny_media


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
    tiny_media.save(model, folder, ids["im_end"])
    features = WhisperFeatureExtractor(feature_size=16, sampling_rate=RATE, chunk_length=1)
    Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_sounds(folder: Path, tasks: tuple[str, ...] = ("one", "two"), train: int = 8, test: int = 4) -> Path:
    """Tones of one pitch, of several lengths; the answer is the pitch's letter, another one in every task."""

    def write(path: Path, kind: int, number: int, i: int, split: str) -> None:
        # every file has bytes of its own, and the rows of a batch have different numbers of tokens
        length = RATE * (40 + 5 * (i % 7) + number + (split == "test") * 2) // 100
        _write(path, PITCHES[kind], length)

    question = "<audio>what is the answer?"
    return tiny_media.build_stream(folder, tasks, train, test, "audios", "sounds", "wav", question, write)


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
