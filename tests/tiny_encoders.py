"""Tiny encoders with random weights, one per family, and inputs for them."""

from __future__ import annotations

import torch

from cl_plugins.crossmodal.encoders import config_of, make_encoder
from cl_plugins.crossmodal.model import CrossModalClassifier


SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
_PICTURE = {"image_size": 16, "patch_size": 8, **SMALL}
_WAVE = {
    "conv_dim": [8, 8],
    "conv_stride": [4, 4],
    "conv_kernel": [8, 8],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    **SMALL,
}
CONFIGS = {
    "vit": {"model_type": "vit", **_PICTURE},
    "dinov2": {"model_type": "dinov2", **_PICTURE},
    "clip": {"model_type": "clip_vision_model", **_PICTURE},
    "siglip": {"model_type": "siglip_vision_model", **_PICTURE},
    "ast": {
        "model_type": "audio-spectrogram-transformer",
        "patch_size": 4,
        "frequency_stride": 4,
        "time_stride": 4,
        "max_length": 16,
        "num_mel_bins": 8,
        **SMALL,
    },
    "wav2vec2": {"model_type": "wav2vec2", **_WAVE},
    "wav2vec2_stable": {
        "model_type": "wav2vec2",
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        **_WAVE,
    },
    "whisper": {
        "model_type": "whisper",
        "d_model": 16,
        "encoder_layers": 4,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
        "num_mel_bins": 8,
        "max_source_positions": 16,
    },
    "bert": {"model_type": "bert", "vocab_size": 50, **SMALL},
    "roberta": {"model_type": "roberta", "vocab_size": 50, **SMALL},
    "xlm-roberta": {"model_type": "xlm-roberta", "vocab_size": 50, **SMALL},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 50,
        "dim": 16,
        "n_layers": 4,
        "n_heads": 2,
        "hidden_dim": 32,
    },
    "signal": {
        "model_type": "cl_signal",
        "channels": 2,
        "length": 32,
        "piece": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
    },
}


def inputs_of(name, rows=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    if name in ("vit", "dinov2", "clip", "siglip"):
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=draw)}
    if name == "ast":
        return {"input_values": torch.randn(rows, 16, 8, generator=draw)}
    if name.startswith("wav2vec2"):
        return {"input_values": torch.randn(rows, 400, generator=draw)}
    if name == "whisper":
        return {"input_features": torch.randn(rows, 8, 32, generator=draw)}
    if name == "signal":
        return {"values": torch.randn(rows, 32, 2, generator=draw)}
    mask = torch.ones(rows, 7, dtype=torch.long)
    mask[-1, 4:] = 0
    return {"input_ids": torch.randint(2, 50, (rows, 7), generator=draw), "attention_mask": mask}


def encoder(name, seed=0):
    torch.manual_seed(seed)
    return make_encoder(config_of(CONFIGS[name]))


def classifier(names=("vit", "bert", "signal"), labels=("a", "b"), double=False, stir=True, **options):
    """A classifier; with ``stir`` no factor of its experts and no row of its head is zero."""
    encoders = {name: encoder(name, seed) for seed, name in enumerate(names)}
    torch.manual_seed(7)
    options = {"blocks": 2, "experts": 4, "bottleneck": 8, "projection": 16, **options}
    model = CrossModalClassifier.from_encoders(encoders, labels=labels, **options)
    if stir:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".up." in name or name.startswith("classifier"):
                    parameter.normal_(std=0.5)
    return model.double() if double else model


def batch_of(names=("vit", "bert", "signal"), rows=3, double=False):
    found = {f"{name}.{part}": value for name in names for part, value in inputs_of(name, rows).items()}
    return {k: v.double() if double and v.is_floating_point() else v for k, v in found.items()}
