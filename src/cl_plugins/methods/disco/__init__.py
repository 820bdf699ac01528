"""DISCO: an expert per task, all of them weighted per row in every layer."""

from __future__ import annotations

from .method import DISCO


__all__ = ["DISCO"]
