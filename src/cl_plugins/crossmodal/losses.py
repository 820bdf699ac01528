"""The losses as pure functions of representations and logits (reconstructions C6 to C8).

``L = L_cls + w_d L_distil + w_a L_align + sqrt(t - 1) L_preserve``, t the number of the step from 1.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def joint_cross_entropy(new: Tensor, labels: Tensor, memory: Tensor, memory_labels: Tensor) -> Tensor:
    """Mean cross-entropy over new and memory rows together.

    Args:
        new: (n, classes) logits of the new rows.
        labels: (n,).
        memory: (m, classes) logits of the memory rows.
        memory_labels: (m,).
    """
    return cross_entropy(torch.cat([_wide(new), _wide(memory)]), torch.cat([labels, memory_labels]))


def distillation(new: Tensor, old: Tensor, temperature: float = 2.0) -> Tensor:
    """``T^2 KL(softmax(old / T) || softmax(new / T))``, mean over rows, over the old classes (C6).

    Args:
        new: (rows, classes) logits of the model in training; classes beyond the old ones are left out.
        old: (rows, old classes) logits of the model before this step; not differentiated.
        temperature: T.

    Returns:
        A scalar; 0 without rows.
    """
    logs = log_softmax(_wide(new[:, : old.shape[1]]) / temperature, -1)
    target = log_softmax(_wide(old.detach()) / temperature, -1)
    return temperature**2 * kl_div(logs, target, reduction="sum", log_target=True) / max(len(old), 1)


def alignment(
    parts: Tensor, joint: Tensor, present: Tensor, *, kind: str = "infonce", temperature: float = 0.1
) -> Tensor:
    """Pull every modality towards the joint representation (C8), not towards the other modalities.

    ``infonce``: ``1/K sum_k mean_i -log exp(cos(z_k^i, z^i)/tau) / sum_j exp(cos(z_k^i, z^j)/tau)``. ``cosine``:
    ``1/K sum_k mean_i 1 - cos(z_k^i, z^i)``. Both without stop-gradient; rows that lack modality k are left out of its mean.

    Args:
        parts: (rows, modalities, width).
        joint: (rows, width).
        present: (rows, modalities) bool.
        kind: ``infonce`` or ``cosine``.
        temperature: tau of ``infonce``.
    """
    own, anchor = normalize(_wide(parts), dim=-1), normalize(_wide(joint), dim=-1)
    weight = present.to(own.dtype)
    if kind == "cosine":
        values = 1 - torch.einsum("bkw,bw->bk", own, anchor)
    else:
        scores = torch.einsum("bkw,jw->bkj", own, anchor) / temperature
        values = scores.logsumexp(-1) - torch.einsum("bkb->bk", scores)
    means = (values * weight).sum(0) / weight.sum(0).clamp_min(1)
    return means.sum() / max(int((weight.sum(0) > 0).sum()), 1)


def contrastive(parts: Tensor, present: Tensor, *, temperature: float = 0.1) -> Tensor:
    """The conventional multi-modal contrastive loss, for comparison: symmetric InfoNCE of every pair of modalities.

    Args:
        parts: (rows, modalities, width).
        present: (rows, modalities) bool; a pair is computed over the rows that have both.
        temperature: tau.

    Returns:
        The mean over pairs; 0 if no row has two modalities.
    """
    own = normalize(_wide(parts), dim=-1)
    found = []
    for first, second in combinations(range(parts.shape[1]), 2):
        both = present[:, first] & present[:, second]
        if not bool(both.any()):
            continue
        scores = own[both, first] @ own[both, second].T / temperature
        target = torch.arange(len(scores), device=scores.device)
        found.append((cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2)
    return torch.stack(found).mean() if found else own.sum() * 0


def preservation(new: Tensor, old: Tensor, temperature: float = 0.1) -> Tensor:
    """``1/n sum_i KL(p_i^old || p_i^new)`` of normalised pairwise similarities of memory samples (C7).

    ``p_ij = exp(cos(z_i, z_j)/tau) / sum_{l != i} exp(cos(z_i, z_l)/tau)``, j != i.

    Args:
        new: (n, width) joint representations of the model in training.
        old: (n, width) those of the model before this step; not differentiated.
        temperature: tau.

    Returns:
        A scalar; 0 for fewer than 3 rows, where every distribution has one value.
    """
    if len(new) < 3:
        return _wide(new).sum() * 0
    logs, target = (_log_similarities(_wide(z), temperature) for z in (new, old.detach()))
    return kl_div(logs, target, reduction="sum", log_target=True) / len(new)


def _log_similarities(values: Tensor, temperature: float) -> Tensor:
    """Logarithms of p, (n, n - 1): the row's own column is taken out."""
    unit = normalize(values, dim=-1)
    scores = unit @ unit.T / temperature
    count = len(scores)
    off = ~torch.eye(count, dtype=torch.bool, device=scores.device)
    return log_softmax(scores[off].view(count, count - 1), -1)


def preservation_weight(step: int) -> float:
    """``sqrt(t - 1)``, t from 1: the weight that the paper states."""
    return math.sqrt(step - 1)
