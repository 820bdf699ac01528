"""The training set of a task for a method: any samples, collated as the trainer collates them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from torch import Tensor

    from .session import Session


class HostTaskData:
    """Implements `cl_plugins.methods.base.TaskData`.

    Args:
        dataset: The host's tokenised training set.
        session: Makes the collator.
    """

    def __init__(self, dataset: Any, session: Session) -> None:
        self._dataset, self._session = dataset, session

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._dataset)

    def batches(self, indices: Sequence[int], size: int = 1) -> Iterator[dict[str, Tensor]]:
        """Collated batches on the model's device."""
        model = self._session.base.model
        collate = self._session.collator(model, training=True)
        device = next(model.parameters()).device
        for start in range(0, len(indices), size):
            rows = [self._dataset[int(i)] for i in indices[start : start + size]]
            batch = collate(rows)
            yield {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}
