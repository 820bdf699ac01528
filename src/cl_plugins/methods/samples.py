"""Which training samples a method looks at again once a task is trained."""

from __future__ import annotations


def chosen_samples(total: int, count: int, seed: int) -> list[int]:
    """The first ``count`` numbers of a permutation of ``range(total)`` drawn with a separate generator."""
    import torch

    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].tolist()
