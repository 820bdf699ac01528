"""Prototype: the mean of the normalised features of each task; a row is like the task whose mean is nearest in angle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .selector import Selector


if TYPE_CHECKING:
    from torch import Tensor


class Prototype(Selector):
    """``scores_k = cos(h, mean_i h_i / |h_i|)`` over the samples i of task k."""

    kind = "prototype"
    reveals = "one mean feature vector per task"

    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """Sum of the unit vectors, (1, width), and their number, (1,)."""
        from torch.nn.functional import normalize

        return {"sums": normalize(vectors, dim=1).sum(0, keepdim=True), "counts": vectors.new_tensor([len(vectors)])}

    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """One row per task."""
        import torch

        return own if carried is None else {name: torch.cat([carried[name], own[name]]) for name in own}

    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """The directions of the means, (tasks, width)."""
        from torch.nn.functional import normalize

        return {"directions": normalize(carried["sums"] / carried["counts"][:, None], dim=1)}

    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """Cosines, (rows, tasks)."""
        from torch.nn.functional import normalize

        return normalize(vectors, dim=1) @ prepared["directions"].T
