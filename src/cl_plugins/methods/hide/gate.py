"""The weights of the authors' code; the ones of the paper are `methods.weighted.row_softmax`."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor


def batch_maximum(similarities: Tensor) -> Tensor:
    """Mean over the features of the largest similarity in the batch: one score per task for all rows.

    Args:
        similarities: (rows, features, tasks).

    Returns:
        (1, tasks).
    """
    return similarities.amax(dim=0).mean(dim=0, keepdim=True)
