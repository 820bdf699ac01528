"""Sequential LoRA: one adapter that keeps training, the baseline that forgets."""

from __future__ import annotations

from .method import SeqLoRA


__all__ = ["SeqLoRA"]
