"""I-LoRA: a fast LoRA learns, and a slow average of it is what remains."""

from __future__ import annotations

from .method import ILoRA


__all__ = ["ILoRA"]
