"""Ridge: a linear classifier of the tasks in closed form, out of sums that are accumulated task by task.

``G = sum_i h_i h_i^T``, ``P = sum_i h_i y_i^T``, ``W = (G + lambda I)^-1 P`` (CF-Route): the same as if all samples had been
seen at once, and no sample is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base.schema import option
from .selector import Selector, SelectorConfig


if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RidgeConfig(SelectorConfig):
    """Options of `Ridge`."""

    penalty: float = option(0.1, help="Lambda, on the diagonal of G.", minimum=1e-12)


class Ridge(Selector):
    """Ridge regression on one-hot task labels."""

    kind = "ridge"
    config_class = RidgeConfig
    reveals = "the feature sums of every task and one matrix of second moments over all of them"

    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """``gram``, (width, width), and ``sums``, (1, width)."""
        return {"gram": vectors.T @ vectors, "sums": vectors.sum(0, keepdim=True)}

    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """G is summed over the tasks; the sums are one row per task."""
        import torch

        if carried is None:
            return own
        return {"gram": carried["gram"] + own["gram"], "sums": torch.cat([carried["sums"], own["sums"]])}

    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """W, (width, tasks)."""
        import torch

        gram = carried["gram"]
        diagonal = self.config.penalty * torch.eye(len(gram), dtype=gram.dtype)
        return {"weights": torch.linalg.solve(gram + diagonal, carried["sums"].T)}

    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """``h W``, (rows, tasks)."""
        return vectors @ prepared["weights"]
