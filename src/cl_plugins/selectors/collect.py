"""Measures a task for a selector: every training sample once, on all processes, added up in fp64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..adapters.pictures import check_known, check_whole
from ..adapters.places import find_tower
from ..base import ranks
from ..base.errors import DataError, Problem, TrainingError
from .checked import checked_scores


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.base_model import BaseModel
    from ..contract.task import TaskContext
    from .selector import Selector


BATCH = 8
#: Rows of each process on which the selector's accuracy is measured.
SAMPLED = 512


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


def batch_vectors(base: BaseModel, selector: Selector, inputs: Mapping[str, Any]) -> Tensor:
    """Vectors of a collated batch, see `Selector.join`."""
    return selector.join([base.features(inputs, look) for look in selector.looks])


def check_features(selector: Selector, context: TaskContext) -> None:
    """Before a task trains: the base has what the selector looks at, and so has the task's first sample.

    A custom trainer knows its samples only once it trains; `measure` looks at all of them.

    Raises:
        CompatibilityError: If the base has not.
        DataError: If the sample has not.
    """
    if selector.told:
        return
    model: Any = context.base.model
    if find_tower(model) is not None:
        if "vision" in selector.config.kinds:
            check_known(model.config)
        if "clip_image" in selector.config.kinds:
            check_whole(model.config)
    if context.data is None:
        return
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
        DataError: If a row has none of the features, or the samples cannot be read at random.
        TrainingError: If a feature is not finite.
    """
    import torch

    sums: dict[str, Tensor] = {}
    kept: list[Tensor] = []
    for vectors in _vectors(selector, context, None):
        _add(sums, selector.measure(vectors), context.task.name)
        if sum(map(len, kept)) < SAMPLED:
            kept.append(vectors)
    total: dict[str, Tensor] = {}
    seen: list[Tensor] = []
    for part, vectors_there in ranks.gather((sums, torch.cat(kept) if kept else None)):
        _add(total, part, context.task.name)
        if vectors_there is not None:
            seen.append(vectors_there)
    if not seen:
        what = "has no training sample."
        raise DataError(Problem(f"task '{context.task.name}'", what, "Give it data."))
    return total, torch.cat(seen)


def sample(selector: Selector, context: TaskContext) -> Tensor:
    """Vectors of the first samples of each process, from all processes, for `accuracy`; (0, 0) without samples."""
    import torch

    kept = list(_vectors(selector, context, SAMPLED)) if context.data is not None else []
    found = [part for part in ranks.gather(torch.cat(kept) if kept else None) if part is not None]
    return torch.cat(found) if found else torch.zeros(0, 0)


def _vectors(selector: Selector, context: TaskContext, most: int | None) -> Iterator[Tensor]:
    """Vectors of this process's samples, batch by batch.

    Raises:
        DataError: If the samples cannot be read at random.
        TrainingError: If a feature is not finite.
    """
    import torch

    data = context.data
    if data is None:
        what = "are streamed, but the selector reads each sample again after the training."
        raise DataError(Problem(f"training samples of '{context.task.name}'", what, "Set `streaming: false`."))
    for inputs in data.batches(list(range(context.rank, len(data), context.world_size))[:most], BATCH):
        vectors = batch_vectors(context.base, selector, inputs)
        if not bool(torch.isfinite(vectors).all()):
            what = "a feature of the task's samples is not finite."
            raise TrainingError(Problem(f"task '{context.task.name}'", what, "Look at the data and at the base."))
        yield vectors


def _add(sums: dict[str, Tensor], more: Mapping[str, Tensor], task: str) -> None:
    """Add statistics to those so far, in place."""
    for name, value in more.items():
        if name in sums and sums[name].shape != value.shape:
            what = "has samples without a picture, whose vision features would have another width than those with one."
            raise DataError(Problem(f"task '{task}'", what, "Leave `vision` out of `cl.method.selector.features`."))
        sums[name] = sums[name] + value if name in sums else value


def accuracy(selector: Selector, carried: dict[str, Tensor], vectors: Tensor, tasks: int | None = None) -> float:
    """Percentage of rows of the latest task that the selector gives to it.

    Args:
        selector: The selector.
        carried: What it has carried, the latest task included.
        vectors: (rows, width).
        tasks: Number of tasks, where it is known.

    Raises:
        CompatibilityError: If it does not return scores.
    """
    scores = checked_scores(selector, selector.scores(selector.prepare(carried), vectors), len(vectors), tasks)
    return 100 * float((scores.argmax(dim=1) == scores.shape[1] - 1).double().mean())
