"""Multitask: all tasks at once, the joint reference."""

from __future__ import annotations

from .method import MultiTask


__all__ = ["MultiTask"]
