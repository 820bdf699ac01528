"""OSF: fine-tuning in the subspace of each weight's small singular values."""

from __future__ import annotations

from .method import OSF


__all__ = ["OSF"]
