"""One vector per row out of several kinds of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import DataError, Problem


if TYPE_CHECKING:
    from torch import Tensor


def vectors_of(values: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One vector per row out of several kinds of features; what a row does not have is 0.

    Args:
        values: For each kind (rows, width) and which rows have it.

    Returns:
        (rows, sum of the widths), fp64 on the CPU; with several kinds each is brought to length 1 first.

    Raises:
        DataError: If a row has none of them.
    """
    import torch
    from torch.nn.functional import normalize

    there = torch.stack([has.cpu() for _, has in values])
    if not bool(there.any(dim=0).all()):
        what = "has a row without a picture, and the selector looks at pictures only."
        raise DataError(Problem("selector", what, "Add `text` to `cl.method.selector.features`."))
    parts = [torch.where(has.cpu()[:, None], value.cpu().double(), 0.0) for value, has in values]
    return parts[0] if len(parts) == 1 else torch.cat([normalize(part, dim=1) for part in parts], dim=1)
