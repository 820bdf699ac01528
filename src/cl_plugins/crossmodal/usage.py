"""How often experts are chosen, and which of them are frozen for it (C9)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn


def counts(chosen: Tensor, experts: int) -> Tensor:
    """Assignments of each expert: (blocks, experts) int64.

    Args:
        chosen: (blocks, rows, choices, top) numbers of experts.
        experts: E.
    """
    flat = chosen.flatten(1)
    found = torch.zeros(len(flat), experts, dtype=torch.int64, device=flat.device)
    return found.scatter_add_(1, flat, torch.ones_like(flat))


def frequencies(count: Tensor, top: int, *, by: str = "assignments") -> Tensor:
    """Frequency of each expert, per adapter: (blocks, experts).

    Args:
        count: From `counts`, of all samples.
        top: Experts picked per sample.
        by: ``assignments``: the share of all (sample, slot) pairs, 1 in sum. ``samples``: the share of samples (with a gate
            per modality: of choices) whose ``top`` experts it is among, ``top`` in sum.
    """
    total = count.sum(1, keepdim=True).clamp_min(1)
    shares = count.double() / total.double()
    return shares * top if by == "samples" else shares


def above(values: Tensor, threshold: float) -> list[list[int]]:
    """Numbers of the experts whose frequency is above a threshold, per adapter."""
    return [[e for e, value in enumerate(row.tolist()) if value > threshold] for row in values]


def freeze(adapters: nn.ModuleList, frozen: Sequence[Collection[int]]) -> None:
    """Freeze experts, and let the others train.

    Args:
        adapters: The adapters of a classifier.
        frozen: Numbers of the frozen experts of each.
    """
    for adapter, numbers in zip(adapters, frozen, strict=True):
        for number, expert in enumerate(adapter.experts):  # type: ignore[arg-type]
            expert.requires_grad_(number not in numbers)
