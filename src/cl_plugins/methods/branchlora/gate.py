"""The gate of a layer: the k best branches of a row (or a token), by the router of its task.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..row_gates import check_shape, first_token, prompt_mean


if TYPE_CHECKING:
    from ...adapters.row_features import Rows
    from ...adapters.rows import RowState
    from ..usage import Usage
    from .config import BranchLoRAConfig


#: Name of the router that trains, (branches, in), and of those of all tasks, (tasks, branches, in).
ROUTER, ROUTERS = "cl_router", "cl_routers"


def sparse_gate(scores: Tensor, top_k: int, norm: str = "selected") -> Tensor:
    """Weights of the branches: ``softmax`` over the ``top_k`` largest scores, 0 for the others (BranchLoRA).

    Args:
        scores: (..., branches).
        top_k: Branches that are not 0; all of them for a dense softmax.
        norm: ``selected``; or ``all`` for the softmax over all scores, of which ``top_k`` are kept as they are.

    Returns:
        As ``scores``; sums to 1 with ``selected``.
    """
    if top_k >= scores.shape[-1]:
        return torch.softmax(scores, dim=-1)
    best = scores.topk(top_k, dim=-1)
    if norm == "selected":
        weights = torch.softmax(best.values, dim=-1)
    else:
        weights = torch.softmax(scores, dim=-1).gather(-1, best.indices)
    return torch.zeros_like(scores).scatter(-1, best.indices, weights)


class BranchGate:
    """Weights of the branches of a layer.

    What a row is given at its prompt holds for its answer: the weights are kept in the row state, so that a step with a
    key-value cache, which sees one token only, does not choose again.

    Args:
        name: Name of the layer.
        layer: The layer, which has its router as ``cl_router``, or those of all tasks as ``cl_routers``.
        state: The row state; ``kept["expert"]`` is the number of a row's task.
        config: The method's options.
    """

    def __init__(self, name: str, layer: Any, state: RowState, config: BranchLoRAConfig) -> None:
        self._name, self._layer, self._state, self._config = name, layer, state, config
        self.usage: Usage | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """The weights; those of rows are 0 while the base computes alone.

        Args:
            inputs: (rows, length, in).

        Returns:
            (rows, branches), or (rows, length, branches) with ``gate_input: token``; in at least fp32.

        Raises:
            CompatibilityError: If the layer does not see the prompt's tokens.
        """
        if self._state.off:
            return inputs.new_zeros(len(inputs), self._config.branches)
        rows = self._state.current
        by_token, kept = self._config.gate_input == "token", f"gate:{self._name}"
        if not by_token and not rows.fresh:
            return rows.kept[kept].to(inputs.device)  # type: ignore[no-any-return]
        if rows.fresh:
            check_shape(self._name, inputs, rows)
        scores = self._scores(inputs if by_token else self._pooled(inputs, rows), rows)
        if self.usage is not None:
            counted = scores[rows.attended.to(scores.device)] if by_token else scores
            self.usage.add(counted, self._config.top_k, self._config.freeze_by)
        weights = sparse_gate(scores, self._config.top_k, self._config.gate_norm)
        if not by_token:
            rows.kept[kept] = weights.detach()
        return weights

    def _pooled(self, inputs: Tensor, rows: Rows) -> Tensor:
        """(rows, in): the first attended position, which is no padding, or the mean over the prompt."""
        return first_token(inputs, rows) if self._config.gate_input == "first" else prompt_mean(inputs, rows)

    def _scores(self, inputs: Tensor, rows: Rows) -> Tensor:
        """``W_r^t x`` with the router of each row's task, in the router's precision also under autocast."""
        router = getattr(self._layer, ROUTER, None)
        with torch.autocast(inputs.device.type, enabled=False):
            if router is not None:
                return linear(inputs.to(router.dtype), router)
            routers: Tensor = getattr(self._layer, ROUTERS)
            tasks = rows.kept["expert"].tolist()
            values = inputs.to(routers.dtype)
            if len(set(tasks)) == 1:
                return linear(values, routers[tasks[0]])
            return torch.stack([linear(row, routers[task]) for row, task in zip(values, tasks, strict=True)])
