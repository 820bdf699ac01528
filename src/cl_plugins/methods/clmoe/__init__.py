"""CL-MoE: MoELoRA whose experts are averaged with their past after every task, by momentum."""

from __future__ import annotations

from .method import CLMoE


__all__ = ["CLMoE"]
