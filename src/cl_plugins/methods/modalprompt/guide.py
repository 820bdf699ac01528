"""Prototypes of prompts, how close rows are to them, and the terms that guide the prompts of the task in training.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, linear, silu


class Head(NamedTuple):
    """The two layers that turn a prompt vector into features.

    Attributes:
        inner: (hidden, hidden).
        inner_bias: (hidden,).
        outer: (width, hidden).
        outer_bias: (width,).
    """

    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor


def prototype(prompts: Tensor, head: Head) -> Tensor:
    """``P = mean_l g(e_l)`` with ``g(e) = W2 silu(W1 e + b1) + b2`` (Zeng et al., ModalPrompt, EMNLP 2025).

    Args:
        prompts: (length, hidden), the vectors of one task.
        head: Its head.

    Returns:
        (width,).
    """
    return linear(silu(linear(prompts, head.inner, head.inner_bias)), head.outer, head.outer_bias).mean(dim=0)


def closeness(parts: Mapping[str, Tensor], prototypes: Tensor) -> Tensor:
    """``c = mean over picture and text of cos(feature, P)``; a row without a picture is compared by its text.

    Args:
        parts: Kind -> (rows, width of the kind), 0 where a row does not have it.
        prototypes: (tasks, sum of the widths), the parts of a prototype in the order of the kinds.

    Returns:
        (rows, tasks).
    """
    cosines, there, start = [], [], 0
    for features in parts.values():
        own = prototypes[:, start : start + features.shape[1]]
        start += features.shape[1]
        cosines.append(cosine_similarity(features[:, None], own[None], dim=-1))
        there.append(features.any(dim=1).to(own))
    return torch.stack(cosines).sum(0) / torch.stack(there).sum(0)[:, None]


def choose(close: Tensor, count: int) -> Tensor:
    """The closest tasks of each row, the closest last, so that its prompts stand next to the words.

    Args:
        close: (rows, tasks).
        count: Number of tasks of a row; all where there are fewer.

    Returns:
        (rows, count), int64.
    """
    return close.argsort(dim=1, descending=True, stable=True)[:, :count].flip(1)


def guidance(parts: Mapping[str, Tensor], own: Tensor) -> dict[str, Tensor]:
    """``1 - mean_b cos(f_b, P)`` for the pictures and the texts of a batch.

    Args:
        parts: Kind -> (rows, width of the kind), 0 where a row does not have it.
        own: (sum of the widths,), the prototype of the task in training, with gradient.

    Returns:
        Kind -> scalar; without a row that has it, 0 that depends on the prototype.
    """
    found, start = {}, 0
    for kind, features in parts.items():
        part = own[start : start + features.shape[1]]
        start += features.shape[1]
        there = features.any(dim=1)
        if bool(there.any()):
            found[kind] = 1 - cosine_similarity(features[there], part[None], dim=-1).mean()
        else:
            found[kind] = 0 * part.sum()
    return found
