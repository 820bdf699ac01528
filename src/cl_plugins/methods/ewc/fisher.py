"""The diagonal of the empirical Fisher matrix, from one sample's gradient at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...adapters.modes import evaluating
from ...base.errors import Problem, TrainingError


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


IGNORED = -100


def fisher_diagonal(
    model: Module, parameters: Sequence[Tensor], samples: Iterable[Mapping[str, Any]], *, by_likelihood: bool = False
) -> list[Tensor]:
    """``F_j = mean over samples of (d loss / d theta_j)^2``, loss the model's own: the mean over a sample's answer tokens.

    The square of a batch's mean gradient is something else (smaller, the larger the batch), so samples come one by one.
    The model computes without dropout and is left in the mode it was in; nothing touches ``.grad``. With several
    processes each gives samples of its own, and all get the mean over all of them.

    Args:
        model: Called as ``model(**sample)``, labels included; returns an object with ``loss``.
        parameters: The tensors whose Fisher values are wanted.
        samples: Batches of one sample each; one without answer tokens is passed over.
        by_likelihood: Weight a squared gradient by ``exp(-loss)``, as mammoth does.

    Returns:
        One fp32 tensor (fp64 for fp64 parameters) for each parameter, on its device.

    Raises:
        TrainingError: If no sample has answer tokens, or a gradient is not finite.
    """
    import torch

    precision = [torch.promote_types(p.dtype, torch.float32) for p in parameters]
    sums = [torch.zeros_like(p, dtype=dtype) for p, dtype in zip(parameters, precision, strict=True)]
    count = 0
    with evaluating(model), torch.enable_grad():
        for sample in samples:
            if not bool((sample["labels"][:, 1:] != IGNORED).any()):
                continue
            loss = model(**sample).loss
            gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
            share = float(torch.exp(-loss.detach())) if by_likelihood else 1.0
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    wide = gradient.to(total.dtype)
                    total.addcmul_(wide, wide, value=share)
            count += 1
    count = _over_all_processes(sums, count)
    if count == 0:
        what = "none of the samples for the Fisher values has an answer token."
        raise TrainingError(Problem("Fisher", what, "Check the training set and `cutoff_len`."))
    if not all(bool(torch.isfinite(total).all()) for total in sums):
        fix = "Train in bf16 or fp32, or lower the learning rate."
        raise TrainingError(Problem("Fisher", "a gradient of the samples is not finite.", fix))
    return [total / count for total in sums]


def _over_all_processes(sums: Sequence[Tensor], count: int) -> int:
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return count
    import torch

    counted = torch.tensor([count], device=sums[0].device)
    dist.all_reduce(counted)
    for total in sums:
        dist.all_reduce(total)
    return int(counted)
