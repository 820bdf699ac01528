"""BranchLoRA: a trunk that all tasks share, branches that are chosen per row, and a router per task."""

from __future__ import annotations

from .method import BranchLoRA


__all__ = ["BranchLoRA"]
