"""SEFE's RegLoRA: a fresh LoRA per task that keeps off the strongest elements of the past updates."""

from __future__ import annotations

from .magnitude import protected_magnitude
from .method import SEFE, SEFEConfig
from .positions import merge_positions, top_positions


__all__ = ["SEFE", "SEFEConfig", "merge_positions", "protected_magnitude", "top_positions"]
