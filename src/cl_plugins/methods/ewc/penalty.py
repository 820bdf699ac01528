"""The quadratic penalty of elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor


def quadratic_penalty(current: Sequence[Tensor], anchors: Sequence[Tensor], fisher: Sequence[Tensor]) -> Tensor:
    """``1/2 * sum_j F_j (theta_j - theta*_j)^2`` over all elements of all tensors (Kirkpatrick et al. 2017).

    This is equation 3 of the paper. A fixed number of batched operations for any number of tensors, and one sum for each tensor.

    Args:
        current: The trained tensors theta.
        anchors: Their values when the past tasks ended, theta*; same shapes; not differentiated.
        fisher: Weights F, non-negative; same shapes; their dtype is the one that is computed in; not differentiated.

    Returns:
        A scalar, without the method's weight.
    """
    import torch

    now = [value.to(weight.dtype) for value, weight in zip(current, fisher, strict=True)]
    then = [value.detach().to(weight.dtype) for value, weight in zip(anchors, fisher, strict=True)]
    if not now:
        return torch.zeros(())
    moved = torch._foreach_sub(now, then)
    terms = torch._foreach_mul(torch._foreach_mul(moved, moved), [weight.detach() for weight in fisher])
    return 0.5 * torch.stack([term.sum() for term in terms]).sum()
