"""MSLoRA-CR: one LoRA per task, told apart by modality with a contrastive term and kept near-orthonormal."""

from __future__ import annotations

from .method import MSLoRACR
from .penalty import contrastive_regularization, orthonormality


__all__ = ["MSLoRACR", "contrastive_regularization", "orthonormality"]
