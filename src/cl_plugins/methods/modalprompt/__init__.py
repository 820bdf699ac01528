"""ModalPrompt: prompts per task, chosen and guided by what picture and text are like."""

from __future__ import annotations

from .method import ModalPrompt


__all__ = ["ModalPrompt"]
