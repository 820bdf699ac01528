"""Single task: an independent adapter per task, the usual upper reference."""

from __future__ import annotations

from .method import SingleTask


__all__ = ["SingleTask"]
