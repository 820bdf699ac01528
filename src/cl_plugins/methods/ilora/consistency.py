"""The distance between hidden states of the fast and the slow LoRA.

Imports torch at the top; import it where a model trains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def consistency(
    fast: Sequence[Tensor], slow: Sequence[Tensor], attended: Tensor, *, one_sided: bool = False
) -> Tensor:
    """``mean (h_fast - h_slow)^2`` over layers, attended positions and elements.

    Args:
        fast: For each layer (rows, length, hidden), with gradient.
        slow: The same of the slow LoRA, without gradient.
        attended: (rows, length), bool.
        one_sided: Only elements that are smaller than those of the slow LoRA count, as in the authors' code.

    Returns:
        A scalar, at least in fp32.
    """
    total: list[Tensor] = []
    for own, other in zip(fast, slow, strict=True):
        wide = torch.promote_types(own.dtype, torch.float32)
        difference = own[attended].to(wide) - other.detach()[attended].to(wide)
        total.append((difference.clamp(max=0) if one_sided else difference).square().mean())
    return torch.stack(total).mean()


def moved(slow: Tensor, fast: Tensor, decay: float, step: int) -> Tensor:
    """``a slow + (1 - a) fast`` with ``a = min(1 - 1 / (step + 1), decay)``: the average forgets its start at first.

    Args:
        slow: The average so far.
        fast: The value after the step.
        decay: Largest weight of the past.
        step: Number of the step, from 1.

    Returns:
        The new average.
    """
    weight = min(1 - 1 / (step + 1), decay)
    return slow * weight + fast * (1 - weight)
