"""The precision that a run computes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from torch.nn import Module


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


def slow_precision(keys: Mapping[str, Any], model: Module) -> list[str]:
    """What to know of the precision that this machine computes in.

    Args:
        keys: The recipe's host keys.
        model: The base. LLaMA-Factory loads it in the dtype in which it is stored, and keeps what it does not train in it.

    Returns:
        Sentences for the log.
    """
    import torch

    kept = keys.get("finetuning_type") != "full"
    stored = kept and any(p.dtype == torch.bfloat16 for p in model.parameters())
    asked_for = bool(keys.get("bf16"))
    if not (asked_for or stored) or not _on_processor(keys) or _multiplies_bf16():
        return []
    slow = "this processor has no instructions for bf16: a step can take ten times as long as in fp32"
    if stored:
        fix = "store the base in fp32 (`model.to(torch.float32).save_pretrained(...)`)"
        return [f"{slow}. To train in fp32, {fix}" + (" and leave out `bf16: true`" if asked_for else "")]
    return [f"{slow}, in which LLaMA-Factory trains without `bf16: true`"]


def _on_processor(keys: Mapping[str, Any]) -> bool:
    """Whether the model computes on the processor: as the recipe says, or because there is nothing else."""
    import torch

    return bool(keys.get("use_cpu")) or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def _multiplies_bf16() -> bool:
    """Whether PyTorch's kernels for bf16 matrices run on this processor; True where PyTorch does not say."""
    import torch

    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is None or bool(known())
