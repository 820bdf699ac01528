"""Which branches of a layer are frozen after a task: those that the task used most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...adapters.modes import looking
from ...base import ranks
from ...base.errors import Problem, TrainingError


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from .gate import BranchGate


def measured(
    model: Module, gates: Mapping[str, BranchGate], samples: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """How much a task's samples use each branch, averaged over all processes' samples.

    Args:
        model: The trained model.
        gates: Layer -> its gate.
        samples: Collated batches of this process.

    Returns:
        Layer -> (branches,), fp64, summing to 1.

    Raises:
        TrainingError: If no process has a sample.
    """
    import torch

    from .gate import Usage

    for gate in gates.values():
        gate.usage = Usage()
    try:
        with looking(model):
            for inputs in samples:
                model(**inputs, use_cache=False)
        found = {name: (gate.usage.total, gate.usage.count) for name, gate in gates.items() if gate.usage is not None}
    finally:
        for gate in gates.values():
            gate.usage = None
    shares: dict[str, Tensor] = {}
    parts = ranks.gather(found)
    for name in gates:
        count = sum(part[name][1] for part in parts)
        if count == 0:
            what = "has no sample on which the use of the branches can be measured."
            raise TrainingError(Problem("BranchLoRA", what, "Give the task data."))
        shares[name] = torch.stack([torch.as_tensor(part[name][0]) for part in parts if part[name][1]]).sum(0) / count
    return shares


def frozen_after(usage: Tensor, before: Tensor, count: int, *, among_all: bool) -> Tensor:
    """The branches that are frozen once a task is learned.

    Args:
        usage: (branches,), how much the task used each.
        before: (branches,), bool, those that were frozen already.
        count: The most used ones to freeze.
        among_all: Whether frozen ones count among the most used; else ``count`` others are frozen, as long as there are.

    Returns:
        (branches,), bool, ``before`` included. Of equally used branches the first ones are taken.
    """
    import torch

    order = torch.argsort(usage, descending=True, stable=True).tolist()
    if not among_all:
        order = [i for i in order if not bool(before[i])]
    after = before.clone()
    after[order[:count]] = True
    return after
