"""What a selector is asked: what it measures on a task, what it carries, how it scores rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.errors import CompatibilityError, Problem
from ..base.schema import nearest, option


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.task import TaskContext


FEATURES = ("vision", "text", "hidden")


@dataclass(frozen=True)
class SelectorConfig:
    """Options that every selector has.

    Attributes:
        features: See `cl_plugins.contract.base_model.BaseModel.features`; several vectors are concatenated.
    """

    features: tuple[str, ...] = option(
        ("vision", "text"), help="What it looks at: `vision`, `text`, `hidden`, or a list of them."
    )

    def value_problems(self, where: str) -> list[Problem]:
        """Features that do not exist."""
        found = []
        for name in self.features:
            if name not in FEATURES:
                fix = f"{nearest(name, FEATURES)} Use {', '.join(FEATURES)}.".strip()
                found.append(Problem(f"{where}.features", f"there are no features called {name!r}.", fix))
        if not self.features or len(set(self.features)) < len(self.features):
            found.append(Problem(f"{where}.features", "is empty or names something twice.", "Name each once."))
        return found


class Selector(ABC):
    """Base class of all selectors.

    Attributes:
        kind: Name in recipes and in the entry point.
        config_class: Frozen dataclass of its options, a subclass of `SelectorConfig`.
        told: Whether the task is given at test; nothing is measured then.
        reveals: What its statistics could tell about the training data, in words.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[SelectorConfig]] = SelectorConfig
    told: ClassVar[bool] = False
    reveals: ClassVar[str] = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def trains(self) -> bool:
        """Whether it has tensors that train with a task, see `training`; nothing is measured afterwards then."""
        return False

    def training(self, context: TaskContext) -> Any:
        """Put fresh tensors on the base of a task, see `cl_plugins.selectors.learning.KeyTraining`.

        Raises:
            CompatibilityError: If it trains nothing.
        """
        raise CompatibilityError(Problem(f"selector '{self.kind}'", "trains nothing.", "Use `measure`."))

    def measure_kinds(self, kinds: dict[str, Tensor]) -> dict[str, Tensor]:
        """`measure` for selectors that treat kinds of features separately.

        Args:
            kinds: Kind -> (rows, width), fp64; 0 where a row does not have it.
        """
        import torch
        from torch.nn.functional import normalize

        parts = list(kinds.values())
        return self.measure(parts[0] if len(parts) == 1 else torch.cat([normalize(p, dim=1) for p in parts], dim=1))

    @abstractmethod
    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """What adds up over the rows of a task.

        Args:
            vectors: (rows, width), fp64.

        Returns:
            Name -> tensor, fp64; sums over the rows.
        """

    @abstractmethod
    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is carried once a further task is learned.

        Args:
            carried: What was carried so far.
            own: The sums of `measure` over the task.
        """

    @abstractmethod
    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """What scores rows, computed once when a model is put together."""

    @abstractmethod
    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """How much rows are like each task.

        Args:
            prepared: What `prepare` gave, fp64 on the CPU.
            vectors: (rows, width), fp64 on the CPU.

        Returns:
            (rows, tasks), in the order in which the tasks were learned; the largest wins.
        """
