"""How memory samples are mixed with new ones.

``concatenate`` puts every memory sample into the training set once, as the papers do. ``ratio`` repeats them (or takes
some of them) until they are a given share of the training set. ``separate`` leaves the training set as it is and adds,
to the loss of every micro-batch of new samples, that of a memory batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .memory import Memory, memory_loss


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..config import ReplayConfig
    from ..contract.task import Batch, TaskContext


def repeated(count: int, new: int, ratio: float, seed: int) -> list[int]:
    """Memory samples that make up a share of the training set.

    Args:
        count: Samples in the buffer.
        new: Samples of the new task.
        ratio: Wanted share of memory samples, between 0 and 1.
        seed: Which ones are repeated once more than others.

    Returns:
        ``round(new * ratio / (1 - ratio))`` numbers; how often two samples occur differs by at most one.
    """
    wanted = round(new * ratio / (1 - ratio))
    if not count:
        return []
    whole, rest = divmod(wanted, count)
    extra = random.Random(f"{seed}/ratio").sample(range(count), rest)
    return [*range(count)] * whole + sorted(extra)


def behind(config: ReplayConfig, by_itself: bool, count: int, new: int, seed: int) -> Sequence[int]:
    """Memory samples that are put behind the new ones in the training set.

    Args:
        config: The settings under ``cl.replay``.
        by_itself: Whether the method brings in memory samples by itself.
        count: Samples in the buffer.
        new: Samples of the new task.
        seed: Seed of the task.
    """
    if by_itself or config.mixing == "separate":
        return []
    return range(count) if config.mixing == "concatenate" else repeated(count, new, config.ratio, seed)


def term(config: ReplayConfig, by_itself: bool, memory: Memory) -> SeparateMemory | None:
    """The term that ``mixing: separate`` adds to the loss, if it is requested."""
    return SeparateMemory(memory, config.weight) if config.mixing == "separate" and not by_itself else None


class SeparateMemory:
    """The term of ``mixing: separate``: ``weight`` times the loss of a memory batch.

    Args:
        memory: The buffer.
        weight: Its weight; 1 makes new and memory samples count alike.
    """

    def __init__(self, memory: Memory, weight: float) -> None:
        self._memory, self._weight = memory, weight

    def __call__(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """The term of one micro-batch; none while the buffer is empty."""
        if not len(self._memory) or not self._weight:
            return {}
        drawn = self._memory.batch(self._memory.draw(context, batch, "separate"))
        return {"replay": self._weight * memory_loss(model, drawn)}
