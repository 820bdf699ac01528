"""Row blocks of ``B A``: a matrix as large as the layer, of which only a few rows exist at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch
    from torch import Tensor


BLOCK_BYTES = 16 * 1024**2
INT32_LIMIT = 2**31


def rows_per_block(columns: int, dtype: torch.dtype, block_bytes: int = BLOCK_BYTES) -> int:
    """Number of rows of ``columns`` elements that fit into a block; at least one."""
    return max(1, block_bytes // (columns * dtype.itemsize))


def block_bounds(positions: Tensor, rows: int, columns: int, total_rows: int) -> Sequence[int]:
    """Where each block's positions begin in the sorted list, and where the last one's end.

    Args:
        positions: Flat positions ``i * columns + j``, ascending.
        rows: Rows of a block.
        columns: Columns of the matrix.
        total_rows: Rows of the matrix.
    """
    import torch

    starts = torch.arange(0, total_rows + rows, rows).clamp_max(total_rows) * columns
    return torch.searchsorted(positions, starts.to(positions.device, positions.dtype)).tolist()  # type: ignore[no-any-return]
