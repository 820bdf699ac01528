"""Doing the same to many tensors in few calls: what penalties share."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor


def by_key(keys: Iterable[Hashable]) -> list[list[int]]:
    """Positions of equal keys (shapes, mostly), in the order in which the keys first appear."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def whole(tensor: Tensor) -> Tensor:
    """The tensor in at least fp32: norms of 16-bit tensors would lose most of their digits."""
    return tensor if tensor.element_size() >= 4 else tensor.float()
