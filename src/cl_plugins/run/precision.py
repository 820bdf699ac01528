"""The precision that a run computes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


#: LLaMA-Factory's keys of mixed precision, and the dtype that each computes in.
MIXED = {"bf16": "bfloat16", "fp16": "float16"}


def asked(keys: Mapping[str, Any]) -> list[str]:
    """The keys of mixed precision that a recipe sets.

    Args:
        keys: The recipe's host keys, or the trainer's arguments by name.
    """
    return [key for key in MIXED if keys.get(key)]


def autocast_name(training: Any) -> str | None:
    """The dtype of autocast in a run with mixed precision, ``bfloat16`` or ``float16``; None without.

    Args:
        training: The host's training arguments, or other arguments with ``bf16`` and ``fp16``.
    """
    return next((dtype for key, dtype in MIXED.items() if getattr(training, key, False)), None)


def slow_precision(keys: Mapping[str, Any]) -> list[str]:
    """What to know of the recipe's precision on this machine.

    Args:
        keys: The recipe's host keys.

    Returns:
        Sentences for the log.
    """
    if not (keys.get("bf16") and keys.get("use_cpu")) or _multiplies_bf16():
        return []
    return [
        "this processor has no instructions for bf16: with `bf16: true` a step can take ten times as long as in fp32, "
        "in which LLaMA-Factory trains without the key"
    ]


def _multiplies_bf16() -> bool:
    """Whether PyTorch's kernels for bf16 matrices run on this processor; True where PyTorch does not say."""
    import torch

    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is None or bool(known())
