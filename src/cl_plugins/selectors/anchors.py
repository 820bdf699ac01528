"""Anchors: the mean of each of a task's features; a row is like the task whose means are nearest in angle, on average.

``scores_k = mean_m cos(f_m, mean_i f_{m,i})`` over the features m that the row has and the samples i of task k (HiDe-LLaVA:
half the cosine with the picture's anchor and half the cosine with the text's; DISCO: the text's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import DataError, Problem
from .selector import Selector


if TYPE_CHECKING:
    from torch import Tensor


class Anchors(Selector):
    """Means of features, one for each of `features`; in contrast to `prototype` each has its own angle."""

    kind = "anchors"
    reveals = "one mean vector per task and feature"

    def join(self, values: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The features as they are, one block of equal width for each: (rows, features x width).

        Blocks are filled up with zeros; a feature that a row does not have is 0.

        Raises:
            DataError: If a row has none of them.
        """
        import torch
        from torch.nn.functional import pad

        there = torch.stack([has.cpu() for _, has in values])
        if not bool(there.any(dim=0).all()):
            what = "has a row without a picture, and the selector looks at pictures only."
            raise DataError(Problem("selector", what, "Add `text` to `cl.method.selector.features`."))
        width = max(value.shape[1] for value, _ in values)
        blocks = [torch.where(has.cpu()[:, None], value.cpu().double(), 0.0) for value, has in values]
        return torch.cat([pad(block, (0, width - block.shape[1])) for block in blocks], dim=1)

    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """Sums of the features, (1, features x width), and how many rows have each, (1, features)."""
        there = self._blocks(vectors).ne(0).any(dim=-1)
        return {"sums": vectors.sum(0, keepdim=True), "counts": there.sum(0, keepdim=True).to(vectors.dtype)}

    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """One row per task."""
        import torch

        return own if carried is None else {name: torch.cat([carried[name], own[name]]) for name in own}

    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """The anchors, (tasks, features x width); 0 where no sample of a task has the feature."""
        blocks, counts = self._blocks(carried["sums"]), carried["counts"]
        return {"anchors": (blocks / counts.clamp(min=1)[..., None]).flatten(1)}

    def similarities(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """Cosines of each feature with the anchors.

        Args:
            prepared: From `prepare`.
            vectors: (rows, features x width).

        Returns:
            (rows, features, tasks); 0 where row or task does not have the feature.
        """
        import torch
        from torch.nn.functional import normalize

        rows = normalize(self._blocks(vectors), dim=-1)
        anchors = normalize(self._blocks(prepared["anchors"]), dim=-1)
        return torch.einsum("rmw,kmw->rmk", rows, anchors)

    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """Mean cosine over the features that a row has, (rows, tasks)."""
        there = self._blocks(vectors).ne(0).any(dim=-1).sum(dim=1, keepdim=True)
        return self.similarities(prepared, vectors).sum(dim=1) / there.clamp(min=1)

    def _blocks(self, vectors: Tensor) -> Tensor:
        """(rows, features, width)."""
        return vectors.reshape(len(vectors), len(self.config.kinds), -1)
