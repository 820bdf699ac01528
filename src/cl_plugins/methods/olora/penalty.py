"""The two terms of O-LoRA as functions of tensors.

Wang et al., *Orthogonal subspace learning for language model continual learning*, Findings of EMNLP 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ...adapters.batched import by_key, whole


if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["l1", "squared"]


def orthogonality(a_new: list[Tensor], a_past: list[Tensor], *, form: Form = "l1") -> Tensor:
    """How much the row spaces of new and past LoRAs overlap.

    ``sum_modules sum_jk |(A_new A_past^T)_jk|`` as the authors' code has it, or with the squared entries, as their paper
    has it. A sum over modules and entries, not a mean.

    Args:
        a_new: For each module, A of shape (rank, in).
        a_past: For each module, the A of all past tasks, one below the other: (sum of ranks, in); detached.
        form: ``l1`` or ``squared``.

    Returns:
        A scalar in the dtype of ``a_new`` (fp32 for 16-bit tensors). The gradient of an entry that is exactly 0 is 0.

    Raises:
        ValueError: If there is no module, the lists differ in length, or the widths of a pair differ.
    """
    return PastRows(a_new, a_past).overlap(a_new, form)


def norms(tensors: list[Tensor]) -> Tensor:
    """The sum of the Frobenius norms, not squared: the authors' second term, over A and B of the new LoRAs.

    Args:
        tensors: Any tensors; at 0 (a fresh B) the gradient is 0.

    Raises:
        ValueError: If there are none.
    """
    import torch

    if not tensors:
        raise ValueError("there is no tensor to measure")
    groups = by_key(tuple(t.shape) for t in tensors)
    stacks = [torch.stack([whole(tensors[i]) for i in group]).flatten(1) for group in groups]
    return torch.stack([torch.linalg.vector_norm(stack, dim=1).sum() for stack in stacks]).sum()


class PastRows:
    """The past A of every module, stacked by shape once.

    Args:
        like: For each module, the new A: shape, dtype and device to follow.
        past: For each module, the past A.

    Raises:
        ValueError: If there is no module, the lists differ in length, or the widths of a pair differ.
    """

    def __init__(self, like: Sequence[Tensor], past: Sequence[Tensor]) -> None:
        import torch

        if not like or len(like) != len(past):
            raise ValueError(f"{len(like)} new and {len(past)} past matrices do not make pairs")
        if any(a.shape[-1] != p.shape[-1] for a, p in zip(like, past, strict=True)):
            raise ValueError("a new and a past matrix have rows of different lengths")
        self._groups: list[tuple[list[int], Tensor]] = []
        for group in by_key((tuple(a.shape), tuple(p.shape)) for a, p in zip(like, past, strict=True)):
            first = whole(like[group[0]])
            self._groups.append((group, torch.stack([past[i].detach().to(first) for i in group]).mT))

    def overlap(self, a_new: Sequence[Tensor], form: Form) -> Tensor:
        """`orthogonality` of the new matrices to these."""
        import torch

        sums = []
        for group, past in self._groups:
            products = torch.stack([whole(a_new[i]) for i in group]) @ past
            sums.append((products.abs() if form == "l1" else products.square()).sum())
        return torch.stack(sums).sum()
