"""Which branches of a layer are frozen after a task: those that the task used most."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor


def frozen_after(usage: Tensor, before: Tensor, count: int, *, among_all: bool) -> Tensor:
    """The branches that are frozen once a task is learned.

    Args:
        usage: (branches,), how much the task used each.
        before: (branches,), bool, those that were frozen already.
        count: The most used ones to freeze.
        among_all: Whether frozen ones count among the most used; else ``count`` others are frozen, as long as there are.

    Returns:
        (branches,), bool, ``before`` included. Of equally used branches the first ones are taken.
    """
    import torch

    order = torch.argsort(usage, descending=True, stable=True).tolist()
    if not among_all:
        order = [i for i in order if not bool(before[i])]
    after = before.clone()
    after[order[:count]] = True
    return after
