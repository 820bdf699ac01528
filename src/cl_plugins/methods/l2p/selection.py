"""Which prompts of a pool a row is given, and the term that pulls their keys to it.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def select(
    query: Tensor,
    keys: Tensor,
    count: int,
    *,
    allowed: range | None = None,
    frequency: Tensor | None = None,
    batchwise: bool = False,
) -> Tensor:
    """The prompts whose keys are nearest in angle (Wang et al., L2P, CVPR 2022, equations 3 and 4).

    With a frequency table the cost of prompt i is ``(1 - cos(q, k_i)) h_i`` instead of ``1 - cos(q, k_i)``; prompts of equal
    cost are taken in the order of their cosines.

    Args:
        query: (rows, width).
        keys: (prompts, width).
        count: Number of prompts of a row.
        allowed: Choose among these only.
        frequency: (prompts,), how often each was chosen so far, as shares.
        batchwise: All rows get the ``count`` prompts that most of them have chosen, as l2p-pytorch does it.

    Returns:
        (rows, count), int64, the nearest first.
    """
    cosines = normalize(query, dim=1) @ normalize(keys, dim=1).T
    if allowed is not None:
        outside = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        outside[allowed.start : allowed.stop] = False
        cosines = cosines.masked_fill(outside, -torch.inf)
    order = cosines.argsort(dim=1, descending=True, stable=True)
    if frequency is not None:
        cost = ((1 - cosines) * frequency.to(cosines)).gather(1, order)
        order = order.gather(1, cost.argsort(dim=1, stable=True))
    chosen = order[:, :count]
    if not batchwise:
        return chosen
    votes = torch.bincount(chosen.flatten(), minlength=len(keys))
    return votes.argsort(descending=True, stable=True)[:count].expand(len(query), -1)


def pull(query: Tensor, keys: Tensor, chosen: Tensor) -> Tensor:
    """``mean_b sum_k cos(q_b, K_k)`` over the chosen keys; the loss subtracts it (equation 5).

    Args:
        query: (rows, width), without gradient.
        keys: (prompts, width).
        chosen: (rows, count), from `select`.

    Returns:
        A scalar.
    """
    cosines = normalize(query, dim=1) @ normalize(keys, dim=1).T
    return cosines.gather(1, chosen).sum(dim=1).mean()
