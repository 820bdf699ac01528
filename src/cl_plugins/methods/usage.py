"""How much the parts of a layer (experts, branches) are used by the samples of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..adapters.modes import looking
from ..base import ranks
from ..base.errors import DataError, Problem, TrainingError
from .samples import chosen_samples


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.task import TaskContext


@dataclass
class Usage:
    """How much the parts of a layer were used: a sum over rows (or tokens), (parts,) in fp64, and their number."""

    total: Any = 0.0
    count: int = 0
    attended: Any = None
    """(rows, length), what is no padding in the forward that is running; None where it is not known."""

    def add(self, scores: Tensor, top_k: int, by: str) -> None:
        """Count rows.

        Args:
            scores: (rows, parts).
            top_k: Parts that are selected.
            by: ``probability`` (the softmax over all parts) or ``selection`` (1 / k for a selected part).
        """
        import torch
        from torch.nn.functional import one_hot

        scores = scores.detach().double().cpu()
        if by == "probability":
            used = torch.softmax(scores, dim=-1)
        else:
            best = scores.topk(top_k, dim=-1).indices
            used = one_hot(best, scores.shape[-1]).sum(-2).double() / top_k
        self.total = self.total + used.sum(0)
        self.count += len(scores)

    def add_tokens(self, scores: Tensor, top_k: int, by: str) -> None:
        """Count every token that is no padding.

        Args:
            scores: (rows, length, parts).
            top_k: As for `add`.
            by: As for `add`.
        """
        mask = self.attended
        known = mask is not None and tuple(mask.shape) == tuple(scores.shape[:2])
        self.add(scores[mask.bool().to(scores.device)] if known else scores.flatten(0, -2), top_k, by)


def of_task(
    context: TaskContext,
    model: Module,
    gates: Mapping[str, Any],
    count: int,
    *,
    parts: str,
    fix: str = "Use a data set with random access.",
) -> dict[str, Tensor]:
    """`measured` on some training samples of a task that was trained.

    Args:
        context: The task.
        model: The trained model.
        gates: As for `measured`.
        count: Samples that are looked at, of all processes together.
        parts: What the parts of a layer are called, for the message.
        fix: What to do where the samples cannot be read again.

    Raises:
        DataError: If they cannot.
    """
    if context.data is None:
        what = f"cannot be read again to see which {parts} the task used."
        raise DataError(Problem(f"training samples of '{context.task.name}'", what, fix))
    chosen = chosen_samples(len(context.data), count, context.seed)
    return measured(model, gates, context.data.batches(chosen[context.rank :: context.world_size], 1))


def measured(model: Module, gates: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """How much a task's samples use each part, averaged over all processes' samples.

    Args:
        model: The trained model.
        gates: Layer -> its gate, which counts into its ``usage`` unless that is None.
        samples: Collated batches of this process.

    Returns:
        Layer -> (parts,), fp64, summing to 1.

    Raises:
        TrainingError: If no process has a sample.
    """
    import torch

    for gate in gates.values():
        gate.usage = Usage()
    try:
        with looking(model):
            for inputs in samples:
                for gate in gates.values():
                    gate.usage.attended = inputs.get("attention_mask")
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
            what = "has no sample on which the use of the parts can be measured."
            raise TrainingError(Problem("training samples", what, "Give the task data."))
        shares[name] = torch.stack([torch.as_tensor(part[name][0]) for part in parts if part[name][1]]).sum(0) / count
    return shares
