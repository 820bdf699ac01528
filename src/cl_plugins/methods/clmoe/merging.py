"""The momentum merge of CL-MoE: which experts are exclusive to the task before, and how they are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...adapters import bank


if TYPE_CHECKING:
    from torch import Tensor


def exclusive(before: Tensor, now: Tensor, count: int) -> Tensor:
    """The experts that are among the most used of the task before, and not of this one.

    Args:
        before: (experts,), how much the task before used each.
        now: (experts,), how much this task does.
        count: Number of the most used ones of each task.

    Returns:
        (experts,), bool. Of equally used experts the first ones are taken.
    """
    import torch

    found = torch.zeros(len(now), dtype=torch.bool)
    top = [torch.argsort(use, descending=True, stable=True)[:count].tolist() for use in (before, now)]
    found[[i for i in top[0] if i not in top[1]]] = True
    return found


def weights_of_past(only_before: Tensor, momentum: float, *, protect: bool) -> Tensor:
    """``lambda`` of every expert in ``theta = lambda theta_before + (1 - lambda) theta_now``.

    Args:
        only_before: (experts,), bool, see `exclusive`.
        momentum: The larger of the two weights.
        protect: Exclusive experts keep ``momentum`` of what they were, the others ``1 - momentum``; else the other way
            round, as in the authors' code.

    Returns:
        (experts,), fp64.
    """
    import torch

    high, low = (momentum, 1 - momentum) if protect else (1 - momentum, momentum)
    return torch.where(only_before, torch.tensor(high, dtype=torch.float64), torch.tensor(low, dtype=torch.float64))


def merged(before: dict[str, Tensor], now: dict[str, Tensor], past: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average the experts of every layer with their past, A and B each; all other tensors are those of now.

    Args:
        before: ``<layer>.cl_a`` and ``<layer>.cl_b`` of all experts, before the task.
        now: The same, after it, and the other tensors.
        past: Layer -> `weights_of_past`.

    Returns:
        As ``now``, in its dtypes.
    """
    found = {name: tensor.clone() for name, tensor in now.items()}
    for layer, share in past.items():
        for kind, dim in ((bank.A, 0), (bank.B, 1)):
            name = f"{layer}.{kind}"
            rank = now[name].shape[dim] // len(share)
            weight = share.repeat_interleave(rank)
            weight = weight[:, None] if dim == 0 else weight[None, :]
            value = weight * before[name].double() + (1 - weight) * now[name].double()
            found[name] = value.to(now[name].dtype).contiguous()
    return found
