"""Answers of a classifier on frozen encoders: the names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.modes import looking
from ..contract.backend import Answer
from .checking import check_finite


if TYPE_CHECKING:
    from ..contract.backend import OnBatch
    from ..contract.test_item import TestItem
    from .session import Session


class ClassBackend:
    """Answers test items with a classifier, see `cl_plugins.contract.backend.Backend`.

    Args:
        model: The classifier.
        session: Makes batches, and knows the names of the classes.
        batch_size: Items per forward.
    """

    name = "host"
    together = False

    def __init__(self, model: Any, session: Session, batch_size: int) -> None:
        self._model, self._session, self.batch_size = model, session, batch_size

    def settings(self) -> dict[str, Any]:
        """Precision and device."""
        parameter = next(self._model.parameters())
        return {"dtype": str(parameter.dtype), "device": parameter.device.type, "autocast": self._bf16}

    @property
    def _bf16(self) -> bool:
        return bool(self._session.args.training.bf16)

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """See `Backend.answer`; before any class was learned every answer is empty."""
        device = next(self._model.parameters()).device
        labels = self._session.classes.names if self._model.learned else ("",)
        for position, numbers in enumerate(batches):
            records = [items[i].media["record"] for i in numbers]  # type: ignore[index]
            batch = {k: v.to(device) for k, v in self._session.processor(records).items()}
            with looking(self._model), torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                found = self._model(**batch)
            logits = found.logits[:, 0]
            check_finite(self._session.processor.names, records, found.parts, logits)
            on_batch(position, [Answer(labels[i]) for i in logits.argmax(-1).tolist()])

    def close(self) -> None:
        """The model belongs to the run."""
