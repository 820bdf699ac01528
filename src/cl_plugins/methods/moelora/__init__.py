"""MoELoRA: experts of low rank on every layer, weighed for each token by a softmax router."""

from __future__ import annotations

from .method import MoELoRA


__all__ = ["MoELoRA"]
