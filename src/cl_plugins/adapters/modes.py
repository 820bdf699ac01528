"""A model without dropout for a moment, every module put back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch.nn import Module


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each module has its own mode again.

    Args:
        model: A model, some of whose modules may be in evaluation mode while it trains (a frozen tower).
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def looking(model: Module) -> Iterator[None]:
    """`evaluating`, without gradients."""
    import torch

    with torch.no_grad(), evaluating(model):
        yield
