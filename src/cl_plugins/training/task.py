"""One task in training: what is checked before and after, and what it leaves; the same in recipes and custom trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..adapters.partitioned import is_partitioned, whole_on_main
from ..base.logs import logger
from ..contract.saving import saveable
from ..contract.task import certain
from . import guards
from .trained import forget_trained, note_trained, train_again


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from .terms import TaskTerms


@dataclass(frozen=True)
class Learned:
    """What a trained task leaves, on the CPU.

    Attributes:
        tensors: From `Method.learned`.
        meta: From `Method.describe`.
        statistics: From `Method.statistics`.
        numbers: From `Method.numbers`.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    statistics: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)


class TaskTraining:
    """Guards around one training.

    Args:
        terms: The terms of the task; they know method and context.
        model: What is trained, not wrapped.
        wanted: Names of modules requested to train as a whole.

    Raises:
        TrainingError: If nothing is trainable, or a module that should be is not.
        CompatibilityError: If the method does not save what it trains.
    """

    def __init__(self, terms: TaskTerms, model: Module, wanted: Sequence[str] = ()) -> None:
        self._terms, self._model, self._wanted = terms, model, tuple(wanted)
        self._where = f"task '{terms.context.task.name}'"
        guards.check_trainable(self._where, model, self._wanted)
        note_trained(model)
        guards.check_saved(terms.method, terms.context, model)
        logger.info("train:%s: %s", terms.context.task.name, guards.trained_parts(model, self._wanted))
        self._before = guards.marks(model)

    def check(self, steps: int) -> None:
        """After the last step.

        Args:
            steps: Optimizer steps of the training, those before a resume included.

        Raises:
            TrainingError: If the training did nothing, or weights are not finite, or a term was zero throughout.
        """
        train_again(self._model)
        after = guards.marks(self._model)
        guards.check_trained(self._where, steps, self._before, after, self._wanted, idle=certain(self._model))
        self._terms.check()

    def leave(self) -> Learned:
        """What the task has learned, copied to the CPU. All ranks take part.

        Raises:
            CompatibilityError: If what a hook of the method returns cannot be written, or does not hold all that is trained.
            TrainingError: If a number that the method reports is not finite.
        """
        method, context, model = self._terms.method, self._terms.context, self._model
        train_again(model)  # a method may ask which tensors are trainable
        learned = method.learned(context, model)
        guards.check_all_learned(method, model, learned)
        tensors = saveable({name: _copy(value) for name, value in learned.items()})
        meta = guards.plain(method, "describe", method.describe(context, model))
        statistics = method.statistics(context, model)
        guards.check_statistics(method, statistics)
        numbers = guards.check_numbers(method, method.numbers(context, model))
        forget_trained(model)
        return Learned(tensors, meta, {name: saveable(values) for name, values in statistics.items()}, numbers)


def _copy(value: Any) -> Tensor:
    if is_partitioned(value):
        return whole_on_main(value)
    copy: Tensor = value.detach()
    return copy
