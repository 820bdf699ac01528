"""Sequential full fine-tuning of language model and projector."""

from __future__ import annotations

from .method import SeqFull


__all__ = ["SeqFull"]
