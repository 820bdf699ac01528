"""The mean of ``|(B A)_ij|`` over some positions: value and gradients in one pass over row blocks.

With ``G`` zero but for ``G_ij = count_ij * sign((B A)_ij)`` at the positions, the gradients of the sum are ``G A^T`` (for B)
and ``B^T G`` (for A). ``B A`` and ``G`` share one block of memory, and nothing of their size is kept for the backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .blocks import BLOCK_BYTES, block_bounds, rows_per_block


if TYPE_CHECKING:
    from torch import Tensor


def protected_magnitude(
    a: Tensor,
    b: Tensor,
    positions: Tensor,
    counts: Tensor | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
    bounds: Sequence[int] | None = None,
) -> Tensor:
    """``mean over the positions of |(B A)_ij|`` (SEFE, RegLoRA), without the scaling of the LoRA.

    At an element that is zero the gradient is zero. The gradients are computed with the value: differentiate once.

    Args:
        a: (rank, in).
        b: (out, rank).
        positions: Flat positions ``i * in + j``, integers; in any order unless ``bounds`` is given.
        counts: How often each position counts, in the mean's divisor too; once by default.
        block_bytes: Largest size of a piece of ``B A``.
        bounds: What `blocks.block_bounds` says of ascending positions, to save it at every step.

    Returns:
        A scalar in fp32 (fp64 for fp64 factors); 0 without positions.
    """
    import torch

    dtype = torch.promote_types(a.dtype, torch.float32)
    rows = rows_per_block(a.shape[1], dtype, block_bytes)
    if bounds is None:
        positions, order = torch.sort(positions)
        counts = counts[order] if counts is not None else None
        bounds = block_bounds(positions, rows, a.shape[1], b.shape[0])
    value: Tensor = _function().apply(a, b, positions, counts, bounds, rows, dtype)
    return value


_made: list[Any] = []


def _function() -> Any:
    """The autograd function; made at the first use, so that importing this module does not import torch."""
    if _made:
        return _made[0]
    import torch

    class ProtectedMagnitude(torch.autograd.Function):
        """Value and both gradients in the forward; the backward only scales them."""

        @staticmethod
        def forward(
            ctx: Any,
            a: Tensor,
            b: Tensor,
            positions: Tensor,
            counts: Tensor | None,
            bounds: Sequence[int],
            rows: int,
            dtype: torch.dtype,
        ) -> Tensor:
            right, left = a.detach().to(dtype), b.detach().to(dtype)
            columns = right.shape[1]
            divisor = float(positions.numel()) if counts is None else float(counts.sum())
            total = right.new_zeros(())
            of_a, of_b = torch.zeros_like(right), torch.zeros_like(left)
            for block, start in enumerate(range(0, left.shape[0], rows)):
                first, last = bounds[block], bounds[block + 1]
                if first == last:
                    continue
                piece = left[start : start + rows] @ right
                flat = piece.view(-1)
                local = positions[first:last].to(torch.int64) - start * columns
                values = flat[local]
                signs = values.sign()
                if counts is not None:
                    signs = signs * counts[first:last].to(dtype)
                total = total + (values * signs).sum()
                flat.zero_().index_add_(0, local, signs)  # whole numbers: exact in any order
                of_b[start : start + rows] = piece @ right.T
                of_a.addmm_(left[start : start + rows].T, piece)
            scale = 1.0 / max(divisor, 1.0)
            ctx.save_for_backward(of_a.mul_(scale).to(a.dtype), of_b.mul_(scale).to(b.dtype))
            return total * scale

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
            of_a, of_b = ctx.saved_tensors
            return (
                of_a * gradient.to(of_a.dtype) if ctx.needs_input_grad[0] else None,
                of_b * gradient.to(of_b.dtype) if ctx.needs_input_grad[1] else None,
                None,
                None,
                None,
                None,
                None,
            )

    _made.append(ProtectedMagnitude)
    return ProtectedMagnitude
