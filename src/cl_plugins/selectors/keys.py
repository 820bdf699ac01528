"""Keys: one learnable vector per task and kind of features, pulled to the features of the task's rows.

``L_align = sum over kinds f of (1 - cos(e_f, k_f))`` (BranchLoRA). The features are frozen and the keys appear nowhere else, so
the minimum is known: the direction of the mean of the unit features. ``learn: training`` follows the gradient while the
task trains, ``learn: mean`` takes the minimum itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..base.schema import option
from .selector import Selector, SelectorConfig


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


class Keys(Selector):
    """``scores_t = sum over kinds f of cos(e_f, k_f^t)``; what a row or a task does not have is left out."""

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

        return KeyTraining(self.config, context)

    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `measure_kinds`; called for a single kind of features."""
        return self.measure_kinds({self.config.features[0]: vectors})

    def measure_kinds(self, kinds: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum of the unit vectors of each kind, (1, width)."""
        from torch.nn.functional import normalize

        return {name: normalize(rows, dim=1).sum(0, keepdim=True) for name, rows in kinds.items()}

    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """One row per task; 0 for a kind that a task did not have."""
        import torch

        before = {} if carried is None else carried
        count = max((len(keys) for keys in before.values()), default=0)
        merged = {}
        for name in sorted({*before, *own}):
            width = max(keys[name].shape[1] for keys in (before, own) if name in keys)
            parts = [
                _fitting(before.get(name), count, width),
                _fitting(own.get(name), 1, width),
            ]
            merged[name] = torch.cat(parts)
        return merged

    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unit keys of each kind, (tasks, width); 0 where there is none."""
        from torch.nn.functional import normalize

        return {name: normalize(keys.double(), dim=1) for name, keys in carried.items()}

    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """Cosines over the kinds of features, (rows, tasks)."""
        import torch
        from torch.nn.functional import normalize

        kinds = self.config.features
        widths = [prepared[name].shape[1] if name in prepared else 1 for name in kinds]  # 1: a base without a tower
        parts = [vectors] if len(kinds) == 1 else vectors.split(widths, dim=1)
        found = vectors.new_zeros(len(vectors), len(next(iter(prepared.values()))))
        counts = torch.zeros_like(found)
        for name, part in zip(kinds, parts, strict=True):
            if name not in prepared:
                continue
            keys = prepared[name]
            found = found + normalize(part, dim=1) @ keys.T
            counts += part.any(dim=1)[:, None] & keys.any(dim=1)[None, :]
        return found / counts.clamp(min=1) if self.config.combine == "mean" else found


def _fitting(keys: Tensor | None, count: int, width: int) -> Any:
    """Keys of ``count`` tasks; zeros where there are none, or where no row had the features (width 1)."""
    import torch

    if keys is None or (keys.shape[1] != width and not bool(keys.any())):
        return torch.zeros(count, width, dtype=torch.float64)
    return keys.double()
