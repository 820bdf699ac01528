"""The training samples of a task for a method: any of them, collated as the trainer collates them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
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
            batch = self._collate([_own(self._dataset[int(i)]) for i in indices[start : start + size]])
            yield {k: v.to(self._device) if hasattr(v, "to") else v for k, v in batch.items()}


def _own(row: Any) -> Any:
    """A copy of a row and its containers: some collators remove entries from their input."""
    if isinstance(row, dict):
        return {key: _own(value) for key, value in row.items()}
    return type(row)(map(_own, row)) if type(row) in (list, tuple) else row
