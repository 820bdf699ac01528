"""Frobenius distances between stacked tensors, with a gradient that keeps no differences in memory.

Imports torch at the top; import it where a penalty is computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Distances(torch.autograd.Function):
    """``d[i, m] = |current[m] - past[i, m]|`` for current (M, n) and past (T, M, n); only current gets a gradient.

    Plain autograd would keep the T differences, a copy of all past LoRAs, from the forward to the backward. The
    gradient at distance 0, where the norm has a kink, is 0.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, past: Tensor) -> Tensor:
        """Distances of shape (T, M)."""
        distances = torch.stack([torch.linalg.vector_norm(current - one, dim=1) for one in past])
        ctx.save_for_backward(current, past, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """``sum_i gradient[i] (current - past[i]) / d[i]``."""
        current, past, distances = ctx.saved_tensors
        factors = torch.where(distances > 0, gradient / distances, torch.zeros_like(distances))
        total = torch.zeros_like(current)
        for one, factor in zip(past, factors, strict=True):
            total += (current - one).mul_(factor.unsqueeze(1))
        return total, None
