"""Cross-modality adapters with representation alignment, in the spirit of Chee, Hsu and Lee (2025)."""

from __future__ import annotations

from .method import CrossModal


__all__ = ["CrossModal"]
