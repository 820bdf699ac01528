"""What a selector is asked: what it measures on a task, what it carries, how it scores rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..adapters.features import of_rows
from ..base.errors import Problem
from ..base.schema import nearest, option
from .vectors import vectors_of


if TYPE_CHECKING:
    from torch import Tensor

    from ..adapters.row_features import Rows
    from ..adapters.rows import RowState
    from ..contract.phase import Phase


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
        trained: Whether it learns in a further training of a task and measures no features, see
            `cl_plugins.selectors.trained.TrainedSelector`; it is a subclass.
        reveals: What its statistics could tell about the training data, in words.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[SelectorConfig]] = SelectorConfig
    told: ClassVar[bool] = False
    trained: ClassVar[bool] = False
    reveals: ClassVar[str] = ""

    def __init__(self, config: Any) -> None:
        self.config = config

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

    def of_rows(self, prepared: dict[str, Tensor], state: RowState, rows: Rows) -> Tensor:
        """Scores of the rows of a forward whose choice is being taken, see `scores`.

        Args:
            prepared: What `prepare` gave.
            state: The row state.
            rows: The rows.
        """
        return self.scores(prepared, vectors_of([of_rows(state, rows, kind) for kind in self.config.features]))

    @property
    def phase(self) -> Phase | None:
        """The further training of a task in which it learns; None for selectors that only measure."""
        return None
