"""EWC: elastic weight consolidation on one LoRA, online."""

from __future__ import annotations

from .fisher import fisher_diagonal
from .method import EWC, EWCConfig
from .penalty import quadratic_penalty


__all__ = ["EWC", "EWCConfig", "fisher_diagonal", "quadratic_penalty"]
