"""Selectors that learn: a router LoRA on the base, trained on kept samples of all tasks in a further phase of a task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.errors import CompatibilityError, Problem
from .selector import Selector


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.phase import Phase
    from ..contract.task import TaskContext
    from ..streams import Stream


class TrainedSelector(Selector):
    """Base class of selectors with a router LoRA.

    The parts of the tasks are called experts here; an expert's mapping is what `expert` returned for its task.
    """

    trained: ClassVar[bool] = True

    @property
    @abstractmethod
    def phase(self) -> Phase:
        """The training of the router."""

    def stream_problems(self, stream: Stream, where: str) -> list[Problem]:
        """What of the selector's options does not fit the stream.

        Args:
            stream: The stream.
            where: YAML path of the selector.
        """
        return []

    @abstractmethod
    def expert(self, context: TaskContext, known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the router has to know of a task, as JSON.

        Args:
            context: The task.
            known: The earlier tasks' experts.
        """

    @abstractmethod
    def prompt(self, context: TaskContext, experts: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What a routed model needs besides the router LoRA: name -> int64 tensor.

        Raises:
            CompatibilityError: If the tokenizer is unknown or unsuitable.
        """

    @abstractmethod
    def sample(self, prompt: Mapping[str, Tensor], number: int, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The router's training sample that is made of a task's.

        Args:
            prompt: From `prompt`.
            number: Number of the sample's task among the experts, from 0.
            sample: The tokenised sample.
        """

    @abstractmethod
    def accuracy(self, prompt: Mapping[str, Tensor], context: TaskContext, model: Module) -> float:
        """Percentage of the phase's samples, ``context.data``, that the router gives to their own task."""

    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """Never asked.

        Raises:
            CompatibilityError: Always.
        """
        raise self._no_features()

    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The latest router knows all tasks."""
        return own

    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """What was carried."""
        return carried

    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Any:
        """Never asked.

        Raises:
            CompatibilityError: Always.
        """
        raise self._no_features()

    def _no_features(self) -> CompatibilityError:
        return CompatibilityError(
            Problem(f"selector '{self.kind}'", "reads prompts and no features.", "Use another selector.")
        )
