"""The two terms of MSLoRA-CR as functions of tensors, and the past LoRAs they are compared with.

Zhang et al., *Contrastive regularization over LoRA for multimodal biomedical image incremental learning*, ACM MM 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...adapters.batched import by_key, whole


if TYPE_CHECKING:
    from torch import Tensor


def contrastive_regularization(
    current: dict[str, Tensor], previous: list[dict[str, Tensor]], same_modality: list[bool]
) -> Tensor:
    """The term that draws LoRAs of one modality together and pushes those of different modalities apart.

    ``R_c = sum_i (1 - S_i if same_modality[i] else S_i)``, summed over the past tasks (not averaged), with the
    similarity ``S_i = mean_w exp(-|w_t - w_i|_F)`` over the tensors ``w``: every A and every B by itself, the Frobenius
    norm not squared.

    Args:
        current: Name -> tensor of the task in training, of any shape; floating point.
        previous: For each past task the same names with the same shapes; detached.
        same_modality: For each past task, whether its modality is the current one.

    Returns:
        A scalar in the dtype of ``current`` (fp32 for 16-bit tensors); 0 without past tasks. Where a tensor equals a
        past one, the norm has a kink; the gradient there is 0.

    Raises:
        ValueError: If ``current`` is empty, the lists differ in length, or names or shapes differ.
    """
    if len(previous) != len(same_modality):
        raise ValueError(f"{len(previous)} past tasks, but {len(same_modality)} values of same_modality")
    return PastTensors(current, previous).contrast(current, same_modality)


def orthonormality(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """How far LoRA pairs are from orthonormal: the mean of ``|A A^T - I|_F^2 + |B^T B - I|_F^2`` over the pairs.

    This is a property of each pair, not one between tasks.

    Args:
        a: For each pair, A of shape (rank, in).
        b: For each pair, B of shape (out, rank).

    Returns:
        A scalar in the dtype of the tensors (fp32 for 16-bit tensors).

    Raises:
        ValueError: If there is no pair, or the lists differ in length.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"{len(a)} matrices A and {len(b)} matrices B do not make pairs")
    return (_gram_errors(a, rows=True) + _gram_errors(b, rows=False)) / len(a)


def _gram_errors(tensors: Sequence[Tensor], *, rows: bool) -> Tensor:
    """Sum over matrices of ``|G - I|_F^2`` for the Gram matrix of rows or columns; one product per shape."""
    import torch

    sums = []
    for indices in by_key(tuple(t.shape) for t in tensors):
        m = torch.stack([whole(tensors[i]) for i in indices])
        gram = m @ m.mT if rows else m.mT @ m
        sums.append((gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)).square().sum())
    return torch.stack(sums).sum()


class PastTensors:
    """The tensors of past tasks, stacked by shape once, so that a step costs a few calls for any number of modules.

    Args:
        like: Name -> tensor of the current task: names, shapes, dtype and device to follow.
        previous: One mapping per past task.

    Raises:
        ValueError: If there are no tensors, or names or shapes differ.
    """

    def __init__(self, like: Mapping[str, Tensor], previous: Sequence[Mapping[str, Tensor]]) -> None:
        import torch

        if not like:
            raise ValueError("there is no tensor to compare")
        for number, past in enumerate(previous, start=1):
            wrong = [n for n in like if n not in past or past[n].shape != like[n].shape] + sorted(
                set(past) - set(like)
            )
            if wrong:
                raise ValueError(f"past task {number} has other tensors than the current one (e.g. {wrong[0]})")
        names = list(like)
        self._count = len(names)
        self._groups: list[tuple[list[str], Tensor]] = []
        for indices in by_key(tuple(like[name].shape) for name in names) if previous else []:
            group = [names[i] for i in indices]
            first = whole(like[group[0]])
            stacked = [torch.stack([p[n].detach().to(first) for n in group]).flatten(1) for p in previous]
            self._groups.append((group, torch.stack(stacked)))

    def contrast(self, current: Mapping[str, Tensor], same_modality: Sequence[bool]) -> Tensor:
        """`contrastive_regularization` of the current tensors against these.

        Args:
            current: The names, shapes, dtype and device of ``like``.
            same_modality: One value per past task.
        """
        import torch

        from .distance import Distances

        if not self._groups:
            return whole(next(iter(current.values()))).new_zeros(())
        sums = []
        for names, past in self._groups:
            stacked = torch.stack([whole(current[name]) for name in names]).flatten(1)
            sums.append(torch.exp(-Distances.apply(stacked, past)).sum(1))
        similarity = torch.stack(sums).sum(0) / self._count
        same = torch.tensor(list(same_modality), device=similarity.device)
        return torch.where(same, 1 - similarity, similarity).sum()
