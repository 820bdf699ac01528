"""The gradient of the loss on memory samples, the same on every process.

Imports torch at the top; import it where a model trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...base import ranks
from ...replay.scoring import CHUNK, answer_logits


if TYPE_CHECKING:
    from torch.nn import Module, Parameter

    from ...contract.task import Memory, TaskContext


def memory_gradient(
    context: TaskContext, memory: Memory, model: Module, trained: Sequence[Parameter], samples: Sequence[int]
) -> list[Tensor]:
    """Gradient of the mean cross-entropy over the answer tokens of memory samples; ``.grad`` is left as it is.

    The processes share the samples. `torch.autograd.grad` would not go through a reentrant checkpoint, so ``.grad`` is put
    aside instead.

    Args:
        context: The task.
        memory: The buffer.
        model: The model, not wrapped.
        trained: Its trainable parameters.
        samples: Numbers of the samples.

    Returns:
        One tensor per parameter, fp32 or wider.
    """
    aside = [parameter.grad for parameter in trained]
    try:
        for parameter in trained:
            parameter.grad = None
        tokens = _backward(memory, model, samples[context.rank :: context.world_size])
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    finally:
        for parameter, gradient in zip(trained, aside, strict=True):
            parameter.grad = gradient
    count = torch.tensor([float(tokens)], device=found[0].device)
    ranks.add_up([*found, count])
    return [gradient / float(count) for gradient in found]


def _backward(memory: Memory, model: Module, samples: Sequence[int]) -> int:
    """Add up the gradients of the loss of some samples; the number of their answer tokens."""
    tokens = 0
    for start in range(0, len(samples), CHUNK):
        logits, targets, counts = answer_logits(model, memory.batch(samples[start : start + CHUNK]))
        cross_entropy(logits, targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
        tokens += sum(counts)
    return tokens
