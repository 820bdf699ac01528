"""The order of samples that are not shuffled, where memory samples are behind the new ones."""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import Sampler


class Spread(Sampler[int]):
    """New samples in their order, memory samples spread evenly among them in a random order.

    A training that ends within its first epoch has then seen its share of memory samples, and of every earlier task.

    Args:
        own: Number of new samples, which come first in the data set.
        total: Number of all samples.
        seed: Seed of the task.
    """

    def __init__(self, own: int, total: int, seed: int) -> None:
        memory = random.Random(f"{seed}/spread").sample(range(own, total), total - own)
        places = [((i + 0.5) / own, i) for i in range(own)]
        places += [((j + 0.5) / len(memory), i) for j, i in enumerate(memory)]
        self._order = [index for _, index in sorted(places)]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        """The same order in every epoch."""
        return iter(self._order)
