"""SMoLoRA: separate experts for what a row shows and for what it asks, one of each per row."""

from __future__ import annotations

from .method import SMoLoRA


__all__ = ["SMoLoRA"]
