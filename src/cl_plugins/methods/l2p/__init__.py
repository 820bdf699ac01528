"""L2P: a pool of prompts, the nearest of which are put in front of each sample."""

from __future__ import annotations

from .method import L2P


__all__ = ["L2P"]
