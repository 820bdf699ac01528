"""O-LoRA (cmnfriend/O-LoRA, ``src/compute_metrics.py``): exact match after punctuation is removed."""

from __future__ import annotations

import string

from ...items import Item
from .base import ReferenceLibrary, RuleScorer


SOURCE = "cmnfriend/O-LoRA, commit 07117e1"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Lower case, ASCII punctuation removed, spaces collapsed. Articles stay."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def exact(item: Item) -> float:
    """Whether answer and reference are equal in that form: "Society Culture" is right for "Society & Culture"."""
    return float(plain(item.prediction) == plain(item.reference))


_EXACT = RuleScorer("peer:olora", exact, "equal without case and ASCII punctuation", "exact_match")
LIBRARY = ReferenceLibrary("olora", SOURCE, {}, default=_EXACT)
