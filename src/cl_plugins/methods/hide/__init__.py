"""HiDe-LLaVA: an expert per task, weighted per row in the last layer and fused in all others."""

from __future__ import annotations

from .method import HiDe


__all__ = ["HiDe"]
