"""GEM and A-GEM: gradients are projected so that the loss on kept samples does not rise."""

from __future__ import annotations

from .method import GEM


__all__ = ["GEM"]
