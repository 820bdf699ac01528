"""IncLoRA: a fresh LoRA per task on the consolidated model."""

from __future__ import annotations

from .method import IncLoRA


__all__ = ["IncLoRA"]
