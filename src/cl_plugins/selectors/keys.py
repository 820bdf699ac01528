"""Keys: one learnable vector per task and kind of features, pulled to the features of the task's rows.

``L_align = sum over kinds f of (1 - cos(e_f, k_f))`` (BranchLoRA). The features are frozen and the keys appear nowhere else, so
the minimum is known: the direction of the mean of the unit features. ``learn: training`` follows the gradient while the
task trains, ``learn: mean`` takes the minimum itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..base.schema import option
from .anchors import Anchors
from .selector import SelectorConfig


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.task import TaskContext
    from .learning import KeyTraining


@dataclass(frozen=True)
class KeysConfig(SelectorConfig):
    """Options of `Keys`."""

    learn: Literal["training", "mean"] = option(
        "training",
        help="`training`: the keys are trained with the task; `mean`: they are the minimum of the same term, from one pass over "
        "the samples after the training.",
    )
    weight: float = option(1.0, help="Lambda, the weight of the term; with `learn: training`.", minimum=1e-12)
    rate: float = option(
        100.0, help="Factor on the recipe's learning rate for the keys; with `learn: training`.", minimum=1e-12
    )
    reduction: Literal["mean", "sum"] = option("mean", help="How the rows of a batch are added up in the term.")
    combine: Literal["sum", "mean"] = option(
        "sum", help="How the cosines of several features make a score: their sum, or their mean over those a row has."
    )


class Keys(Anchors):
    """``scores_t = sum over kinds f of cos(e_f, k_f^t)``; what a row or a task does not have is left out.

    What is carried and what a row is compared with are laid out as those of `Anchors`: one block for each kind.
    """

    kind = "keys"
    config_class = KeysConfig
    reveals = "one direction per task and kind of features, near the mean of the task's features"

    @property
    def trains(self) -> bool:
        """Whether the keys train with the task."""
        return bool(self.config.learn == "training")

    def training(self, context: TaskContext) -> KeyTraining:
        """Fresh keys on the base of a task."""
        from .learning import KeyTraining

        return KeyTraining(self, context)

    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """Sum of the unit vectors of each kind, whose direction is the key: (1, features x width)."""
        from torch.nn.functional import normalize

        return {"keys": normalize(self._blocks(vectors), dim=-1).flatten(1).sum(0, keepdim=True)}

    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """The keys, (tasks, features x width); 0 where no sample of a task had the feature."""
        return {"anchors": carried["keys"]}

    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """Cosines, (rows, tasks), added up over the kinds or averaged over those that a row has."""
        if self.config.combine == "mean":
            return super().scores(prepared, vectors)
        return self.similarities(prepared, vectors).sum(dim=1)
