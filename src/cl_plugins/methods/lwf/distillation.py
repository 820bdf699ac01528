"""Distillation on answer tokens, and the two terms that EasyCL computes in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from torch import Tensor


IGNORED = -100


def distillation(new_logits: Tensor, old_logits: Tensor, labels: Tensor, temperature: float = 2.0) -> Tensor:
    """``T^2 KL(softmax(z_old / T) || softmax(z_new / T))``, mean over answer tokens (Li & Hoiem 2016; Hinton et al. 2015).

    The logits of position p predict token p + 1, so ``logits[:, :-1]`` meets ``labels[:, 1:]``. Only the rows that
    predict an answer token go through a softmax.

    Args:
        new_logits: Of the model that trains, (batch, length, vocabulary), not shifted.
        old_logits: Of the teacher, same shape; not differentiated.
        labels: (batch, length), -100 outside the answer, not shifted.
        temperature: T.

    Returns:
        A scalar in fp32 (fp64 for fp64 logits); 0 if there is no answer token.

    Raises:
        CompatibilityError: If logits and labels are of different lengths.
    """
    _check_lengths(new_logits, old_logits, labels)
    answer = labels[:, 1:] != IGNORED
    return _divergence(new_logits[:, :-1][answer], old_logits[:, :-1][answer], temperature)


def unshifted_distillation(new_logits: Tensor, old_logits: Tensor, labels: Tensor, temperature: float = 2.0) -> Tensor:
    """As `distillation`, one token late: position p is taken where token p itself is an answer token, as EasyCL does."""
    _check_lengths(new_logits, old_logits, labels)
    answer = labels != IGNORED
    return _divergence(new_logits[answer], old_logits[answer], temperature)


def echo_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """EasyCL's second cross-entropy: position p has to predict token p, which it has just read.

    Args:
        logits: (batch, length, vocabulary), not shifted.
        labels: (batch, length), -100 outside the answer.

    Returns:
        The mean over answer tokens; 0 if there is none.
    """
    import torch

    answer = labels != IGNORED
    rows = logits[answer]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    total = torch.nn.functional.cross_entropy(rows, labels[answer], reduction="sum")
    return total / max(rows.shape[0], 1)


def _divergence(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Of rows (n, vocabulary)."""
    import torch
    from torch.nn import functional

    dtype = torch.promote_types(new.dtype, torch.float32)
    log_new = functional.log_softmax(new.to(dtype) / temperature, dim=-1)
    log_old = functional.log_softmax(old.detach().to(dtype) / temperature, dim=-1)
    total = functional.kl_div(log_new, log_old, reduction="sum", log_target=True)
    return temperature**2 * total / max(new.shape[0], 1)


def _check_lengths(new: Tensor, old: Tensor, labels: Tensor) -> None:
    if not (new.shape == old.shape and new.shape[:2] == labels.shape):
        shapes = f"{tuple(new.shape)}, {tuple(old.shape)} and {tuple(labels.shape)}"
        what = f"logits, the teacher's logits and labels do not match (shapes {shapes})."
        raise CompatibilityError(Problem("distillation", what, "Use a model that gives logits for every input token."))
