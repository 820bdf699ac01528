"""Engines and precisions that `accelerate launch` asks for by variables, which a recipe does not show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..base.errors import Problem
from .precision import asked


FSDP = "ACCELERATE_USE_FSDP"
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
_ON = frozenset({"y", "yes", "t", "true", "on", "1"})  # accelerate's own rule
_REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron is not tested with `cl`.",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context and sequence parallelism are not tested with `cl`.",
}


def enabled(name: str) -> bool:
    """Whether a variable of accelerate is on."""
    return os.environ.get(name, "false").strip().lower() in _ON


def fsdp_problem(where: str, fix: str = "Use DDP (torchrun), or DeepSpeed where the method allows it.") -> Problem:
    """The refusal of FSDP, the same wherever it is asked for.

    Args:
        where: The key or the variable that asks for it.
        fix: What to do about it.
    """
    return Problem(where, "is not tested with any method.", fix)


def variable_problems(keys: Mapping[str, Any]) -> list[Problem]:
    """What the variables ask for and the keys do not.

    Args:
        keys: The recipe's host keys, or the trainer's arguments by name (``deepspeed``, ``bf16``).
    """
    found = [
        Problem(name, f"is set in the environment: {why}", "Unset it; DDP works (torchrun).")
        for name, why in _REFUSED.items()
        if enabled(name)
    ]
    if enabled(DEEPSPEED) and not keys.get("deepspeed"):
        what = "is set in the environment, but the recipe does not name the configuration."
        found.append(Problem(DEEPSPEED, what, "Unset it, and give `deepspeed: FILE` in the recipe."))
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", *asked(keys)):
        what = f"is {precision!r} in the environment, but not in the recipe."
        fix = "Unset it, and write `bf16: true` or `fp16: true` in the recipe if you want it."
        found.append(Problem("ACCELERATE_MIXED_PRECISION", what, fix))
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        what = "is set in the environment; a compiled model is not tested with `cl`."
        found.append(Problem("ACCELERATE_DYNAMO_BACKEND", what, "Unset it."))
    return found
