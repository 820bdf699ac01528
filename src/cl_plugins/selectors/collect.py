"""Measures a task for a selector: every training sample once, on all processes, added up in fp64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import DataError, Problem, TrainingError
from .vectors import vectors_of


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.base_model import BaseModel
    from ..contract.task import TaskContext
    from .selector import Selector


BATCH = 8
#: Rows of each process on which the selector's accuracy is measured.
SAMPLED = 512


def batch_vectors(base: BaseModel, selector: Selector, inputs: Mapping[str, Any]) -> Tensor:
    """Vectors of a collated batch, see `vectors_of`."""
    return vectors_of([base.features(inputs, kind) for kind in selector.config.features])


def check_features(selector: Selector, context: TaskContext) -> None:
    """Before a task trains: its samples have what the selector looks at.

    Raises:
        DataError: If they do not, or cannot be read at random.
    """
    if selector.told:
        return
    if context.data is None:
        what = "are streamed, but the selector reads each sample again after the training."
        raise DataError(Problem(f"training samples of '{context.task.name}'", what, "Set `streaming: false`."))
    for inputs in context.data.batches([0], 1):
        batch_vectors(context.base, selector, inputs)


def measure(selector: Selector, context: TaskContext) -> tuple[dict[str, Tensor], Tensor]:
    """What a selector measures on a task. All processes take part and get the same.

    Args:
        selector: The selector.
        context: The task.

    Returns:
        The sums over all samples, and the vectors of the first samples of each process.

    Raises:
        DataError: If a row has none of the features.
        TrainingError: If a feature is not finite.
    """
    import torch

    sums: dict[str, Tensor] = {}
    kept: list[Tensor] = []
    data = context.data
    numbers = list(range(context.rank, len(data) if data is not None else 0, context.world_size))
    for inputs in data.batches(numbers, BATCH) if data is not None else ():
        vectors = batch_vectors(context.base, selector, inputs)
        if not bool(torch.isfinite(vectors).all()):
            what = "a feature of the task's samples is not finite."
            raise TrainingError(Problem(f"task '{context.task.name}'", what, "Look at the data and at the base."))
        for name, value in selector.measure(vectors).items():
            sums[name] = sums[name] + value if name in sums else value
        if sum(map(len, kept)) < SAMPLED:
            kept.append(vectors)
    total: dict[str, Tensor] = {}
    seen: list[Tensor] = []
    for part, vectors_there in ranks.gather((sums, torch.cat(kept) if kept else None)):
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
        if vectors_there is not None:
            seen.append(vectors_there)
    if not seen:
        what = "has no training sample."
        raise DataError(Problem(f"task '{context.task.name}'", what, "Give it data."))
    return total, torch.cat(seen)


def accuracy(selector: Selector, carried: dict[str, Tensor], vectors: Tensor) -> float:
    """Percentage of rows of the latest task that the selector gives to it."""
    scores = selector.scores(selector.prepare(carried), vectors)
    return 100 * float((scores.argmax(dim=1) == scores.shape[1] - 1).double().mean())
