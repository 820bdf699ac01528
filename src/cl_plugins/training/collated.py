"""The training samples of a task for a method: any of them, collated as the trainer collates them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class CollatedData:
    """Implements `cl_plugins.contract.task.TaskData`.

    Args:
        dataset: Anything with ``len`` and ``[i]``, tokenised.
        collate: The trainer's collator.
        device: Where the batches go.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], device: Any) -> None:
        self._dataset, self._collate, self._device = dataset, collate, device

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._dataset)

    def batches(self, indices: Sequence[int], size: int = 1) -> Iterator[dict[str, Tensor]]:
        """Collated batches on the device."""
        for start in range(0, len(indices), size):
            batch = self._collate([copied(self._dataset[int(i)]) for i in indices[start : start + size]])
            yield {k: v.to(self._device) if hasattr(v, "to") else v for k, v in batch.items()}


def copied(row: Any) -> Any:
    """A copy of a row, its containers, tensors and arrays: some collators change what they get.

    Args:
        row: As a data set gives it.
    """
    if isinstance(row, dict):
        return {key: copied(value) for key, value in row.items()}
    if isinstance(row, torch.Tensor):
        return row.clone()
    if isinstance(row, np.ndarray):
        return row.copy()
    return type(row)(map(copied, row)) if type(row) in (list, tuple) else row
