"""DER and DER++: the answers of buffered samples are held at the logits that the model gave when they were stored."""

from __future__ import annotations

from .matching import StoredLogits, logit_matching, pack, unpack
from .method import DER


__all__ = ["DER", "StoredLogits", "logit_matching", "pack", "unpack"]
