"""Which elements of an update are protected: the largest of ``|B A|``, found without the whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .blocks import BLOCK_BYTES, INT32_LIMIT, rows_per_block


if TYPE_CHECKING:
    from torch import Tensor


def top_positions(a: Tensor, b: Tensor, share: float = 0.02, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Flat positions ``i * in + j`` of the largest ``|(B A)_ij|`` (SEFE, RegLoRA's key elements), ascending.

    Exact and the same every time: of equal elements the first in row order are taken. Computed in fp64, so that
    neither the block size nor the device moves an element across the border.

    Args:
        a: (rank, in).
        b: (out, rank).
        share: Part of all elements that is taken; ``int(share * out * in)`` of them, at least one.
        block_bytes: Largest size of a piece of ``B A``.

    Returns:
        int32 (int64 for matrices of 2^31 elements or more), on the device of ``a``.
    """
    import torch

    with torch.no_grad():
        left, right = b.detach().double(), a.detach().double()
        out, columns = left.shape[0], right.shape[1]
        count = min(max(1, int(share * out * columns)), out * columns)
        rows = rows_per_block(columns, right.dtype, block_bytes)
        best = right.new_empty(0)
        where = torch.empty(0, dtype=torch.int64, device=right.device)
        for start in range(0, out, rows):
            values = (left[start : start + rows] @ right).abs_().reshape(-1)
            if best.numel() == count:  # a later element has to be larger; an equal one comes too late
                found = (values > best.min()).nonzero().reshape(-1)
                values = values[found]
            else:
                found = torch.arange(values.numel(), device=values.device)
            if found.numel() == 0:
                continue
            best, where = torch.cat([best, values]), torch.cat([where, found + start * columns])
            if best.numel() > count:
                taken = _largest(best, count)
                best, where = best[taken], where[taken]
        return where.to(torch.int32) if out * columns < INT32_LIMIT else where


def _largest(values: Tensor, count: int) -> Tensor:
    """Which of some finite numbers are the largest, the first of equal ones; ascending. Sorting them all takes much longer.

    Args:
        values: 1-D.
        count: How many; less than there are.
    """
    import torch

    least = torch.topk(values, count, sorted=False).values.min()
    taken = values > least
    equal = (values == least).nonzero().reshape(-1)
    taken[equal[: count - int(taken.sum())]] = True
    return taken.nonzero().reshape(-1)


def merge_positions(lists: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Several tasks' positions as one list.

    Args:
        lists: Ascending positions, one tensor for each task.

    Returns:
        Each position once, ascending, and in how many lists it occurs (int32).
    """
    import torch

    merged, counts = torch.unique(torch.cat(list(lists)), return_counts=True)
    return merged, counts.to(torch.int32)
