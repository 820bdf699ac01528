"""MR-LoRA: independent experts, one per task, and a router that reads the question and names one of them."""

from __future__ import annotations

from .method import MRLoRA


__all__ = ["MRLoRA"]
