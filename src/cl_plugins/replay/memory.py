"""The buffer as methods see it while a task trains: samples to draw from, and what was stored with them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract import task as contract
    from ..contract.task import Batch, TaskContext, TaskData
    from .store import Buffer, Sample


@dataclass(frozen=True)
class Chosen:
    """A sample of the task in training that will go into the buffer.

    Attributes:
        uid: Its name in the buffer.
        index: Its number in `TaskContext.data`.
    """

    uid: str
    index: int


class Memory:
    """The buffer during one task.

    Args:
        buffer: What earlier tasks left, None for nothing.
        data: Its samples, tokenised; None if there are none.
        batch: Memory samples per micro-batch; None for as many as the micro-batch has.

    Attributes:
        samples: The samples of earlier tasks, in the order of `data`.
        chosen: Once training is over: the samples of this task that will be kept. `Method.statistics` may store tensors
            for them, in a statistic called ``memory_<name>``, each named ``<uid>/<what>``; they stay as long as their
            sample and come back as ``tensors("memory_<name>")``.
    """

    def __init__(self, buffer: Buffer | None, data: TaskData | None, batch: int | None = None) -> None:
        self._buffer, self.data, self._batch = buffer, data, batch
        self.samples: tuple[Sample, ...] = buffer.samples if buffer is not None else ()
        self.chosen: Sequence[contract.Chosen] = ()
        self._drawn: dict[str, tuple[int, dict[int, int]]] = {}  # purpose -> step, samples of its micro-batches

    def __len__(self) -> int:
        """Number of samples of earlier tasks."""
        return len(self.samples)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What the method stored with the samples, ``<uid>/<what>`` -> tensor; empty if nothing."""
        return self._buffer.tensors(name) if self._buffer is not None else {}

    def draw(self, context: TaskContext, batch: Batch, purpose: str, at_least: int = 0) -> list[int]:
        """Numbers of the memory samples that go with a micro-batch, see `draw`.

        Args:
            context: The task.
            batch: The micro-batch.
            purpose: Draws with another purpose are independent.
            at_least: Draw this number where fewer are asked for, as far as the buffer has them.
        """
        size = self._batch or len(batch.labels)
        size = max(size, min(at_least, len(self)))
        step, sizes = self._drawn.get(purpose, (batch.step, {}))
        sizes = {**(sizes if step == batch.step else {}), batch.micro: size}
        self._drawn[purpose] = batch.step, sizes
        # the last micro-batch of an epoch is smaller than those before it; on every process alike
        before = sum(sizes[micro] for micro in sizes if micro < batch.micro)
        first = before * context.world_size + context.rank * size
        return draw(len(self), size, seed=context.seed, step=batch.step, first=first, purpose=purpose)

    def batch(self, indices: Sequence[int]) -> Mapping[str, Any]:
        """Samples of earlier tasks as one collated batch."""
        if self.data is None:
            raise ValueError("the buffer is empty")
        return next(iter(self.data.batches(indices, len(indices))))


def draw(count: int, size: int, *, seed: int, step: int, first: int, purpose: str) -> list[int]:
    """Draw a memory batch, the same after a resume.

    The draws of one optimizer step deal out permutations of the buffer, so that a step sees the same memory samples in
    every batch layout (8 x 1, 1 x 8, 2 processes x 4), and none twice before all have been seen.

    Args:
        count: Samples in the buffer, at least 1.
        size: Samples wanted.
        seed: Seed of the task.
        step: Optimizer step.
        first: Samples that the step has drawn before, over all processes.
        purpose: Draws with another purpose are independent.
    """
    permutations: dict[int, list[int]] = {}
    found = []
    for position in range(first, first + size):
        lap, place = divmod(position, count)
        if lap not in permutations:
            permutations[lap] = random.Random(f"{seed}/{step}/{purpose}/{lap}").sample(range(count), count)
        found.append(permutations[lap][place])
    return found


def memory_loss(model: Module, batch: Mapping[str, Any]) -> Tensor:
    """Mean cross-entropy over the answer tokens of a memory batch, in fp32, through the model itself.

    Args:
        model: The model, not wrapped.
        batch: From `Memory.batch`.
    """
    from torch.nn.functional import cross_entropy

    from .scoring import answer_logits

    logits, targets, _ = answer_logits(model, batch)
    return cross_entropy(logits, targets)
