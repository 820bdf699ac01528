"""O-LoRA: a LoRA per task in a subspace orthogonal to those of the past tasks."""

from __future__ import annotations

from .method import OLoRA
from .penalty import norms, orthogonality


__all__ = ["OLoRA", "norms", "orthogonality"]
