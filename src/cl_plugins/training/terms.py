"""How a method's terms join the loss of a trainer: one mixin for LLaMA-Factory's, Transformers' and TRL's trainers.

Two kinds of terms. *Penalties* depend on weights only; their gradient is added once per optimizer step, before
clipping, so that they are worth the same for every batch layout. *Batch terms* use the logits of a micro-batch and are
weighted among micro-batches and processes as the trainer weights the loss itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, TrainingError
from ..contract.method import Method
from ..contract.task import Batch, TaskContext, certain


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

    BatchTerms = Callable[[TaskContext, Module, Batch], dict[str, Tensor]]


class TaskTerms:
    """The terms of one task, and what is remembered about their values.

    Args:
        method: The method.
        context: The task.
        model: What is trained, not wrapped.
        more: Further terms of a micro-batch, as `Method.batch_terms` gives them (replay's memory batch).
        join: In a custom trainer: makes the data set that is trained on of the task's own (replay).

    Attributes:
        method: The method.
        context: The task.
        in_loss: Whether a trainer with `ContinualTrainerMixin` looks after the terms.
        model: What is trained, not wrapped.
        resumed: The checkpoint that such a trainer goes on from.
        last: Name -> latest value.
    """

    def __init__(
        self,
        method: Method,
        context: TaskContext,
        model: Module,
        more: BatchTerms | None = None,
        join: Callable[[Any, int], Any] | None = None,
    ) -> None:
        self.method, self.model, self._more = method, model, more
        self.join = join
        self.context = context
        self.has_penalties = method.penalised
        self.has_batch_terms = more is not None or method.reads_logits
        self.in_loss = False
        self.resumed: Path | None = None
        self._largest: dict[str, float] = {}
        self._steps_seen: tuple[int, int] | None = None  # the first and the last
        self.last: dict[str, float] = {}

    def learning_rates(self) -> dict[str, float]:
        """The method's factors on the learning rate."""
        return dict(self.method.learning_rates(self.context, self.model))

    def penalties(self, step: int) -> list[Tensor]:
        """The penalties of a step that can be learned from; checked and noted."""
        return self._checked(self.method.penalties(self.context, self.model), step)

    def batch(self, batch: Batch) -> list[Tensor]:
        """The terms of a micro-batch; checked and noted."""
        terms = self.method.batch_terms(self.context, self.model, batch)
        if self._more is not None:
            terms = {**terms, **self._more(self.context, self.model, batch)}
        return self._checked(terms, batch.step)

    def _checked(self, terms: dict[str, Tensor], step: int) -> list[Tensor]:
        self._steps_seen = (self._steps_seen[0] if self._steps_seen else step, step)
        for name, term in terms.items():
            value = float(term.detach())
            if not math.isfinite(value):
                what = f"the penalty '{name}' is {value} at step {step}."
                raise TrainingError(Problem(self._where, what, "Lower its weight or the learning rate."))
            self._largest[name] = max(self._largest.get(name, 0.0), abs(value))
            self.last[name] = value
        return [term for term in terms.values() if term.requires_grad]  # a constant protects nothing

    def change_gradients(self, step: int) -> None:
        """The method's change of the gradients of a step."""
        self.method.change_gradients(self.context, self.model, step)

    def after_step(self, *, last: bool) -> None:
        """What the method does after an optimizer step."""
        self.method.after_step(self.context, self.model, last=last)

    @property
    def logs(self) -> dict[str, float]:
        """The latest values, under the names that appear in the logs."""
        return {f"penalty/{name}": value for name, value in self.last.items()}

    def check(self) -> None:
        """After training: a declared term that was zero throughout did nothing.

        Raises:
            TrainingError: From task 2 on.
        """
        if self.method.starts_at_zero and self._steps_seen is not None and len(set(self._steps_seen)) == 1:
            return  # a task of one step, where zero is right
        if certain(self.model):
            return
        dead = [name for name, value in self._largest.items() if value == 0.0]
        if dead and self.context.index > 1:
            what = f"the penalties {', '.join(dead)} were zero at every step."
            raise TrainingError(Problem(self._where, what, "Set their weight to 0 if this is intended."))

    @property
    def _where(self) -> str:
        return f"task '{self.context.task.name}'"


def add_gradient(terms: list[Tensor], parameters: Iterable[Parameter], scaler: Any = None) -> None:
    """Add the gradient of the sum of some terms to ``.grad``.

    The gradient is taken without `backward`, so that no hook of a distributed wrapper sees it: every rank adds the same
    after the ranks have averaged theirs, and no accumulation divides it.

    Args:
        terms: Scalars.
        parameters: What is trained.
        scaler: The gradient scaler of fp16 training, if there is one.
    """
    import torch

    if not terms:
        return
    total = torch.stack([term.reshape(()) for term in terms]).sum()
    trained = [p for p in parameters if p.requires_grad]
    gradients = torch.autograd.grad(scaler.scale(total) if scaler is not None else total, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            gradient = gradient.to(parameter.dtype)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
