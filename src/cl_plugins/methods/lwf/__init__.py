"""LwF: the adapter of the past tasks teaches the one that trains, on the new task's samples."""

from __future__ import annotations

from .distillation import distillation, echo_loss, unshifted_distillation
from .method import LwF, LwFConfig


__all__ = ["LwF", "LwFConfig", "distillation", "echo_loss", "unshifted_distillation"]
