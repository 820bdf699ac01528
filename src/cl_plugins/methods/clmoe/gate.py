"""MoELoRA's router, which can count the experts that tokens use most.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..moelora.gate import TokenSoftmax
from ..usage import Usage


class CountedSoftmax(TokenSoftmax):
    """`TokenSoftmax` that counts while ``usage`` is there.

    Args:
        layer: The layer, which has the router as ``cl_router``.
        top_ids: Experts that a token counts for.
    """

    def __init__(self, layer: Any, top_ids: int) -> None:
        super().__init__(layer)
        self._top_ids = top_ids
        self.usage: Usage | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """As `TokenSoftmax`: (rows, length, in) -> (rows, length, experts)."""
        weights = super().__call__(inputs)
        if self.usage is not None:
            self.usage.add_tokens(weights, self._top_ids, "selection")
        return weights
