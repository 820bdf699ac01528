"""The router of a layer: ``softmax(G x)`` for every token.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


#: Name of the router on its layer, (experts, in).
ROUTER = "cl_router"


class TokenSoftmax:
    """Weights of the experts of a layer, dense and per token.

    Args:
        layer: The layer, which has the router as ``cl_router``.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, inputs: Tensor) -> Tensor:
        """``softmax(G x)``; the router reads the input without dropout.

        Args:
            inputs: (rows, length, in).

        Returns:
            (rows, length, experts), in at least fp32.
        """
        return token_softmax(inputs, getattr(self._layer, ROUTER))


def token_softmax(inputs: Tensor, router: Tensor) -> Tensor:
    """``softmax(G x)`` over the experts.

    Args:
        inputs: (..., in).
        router: (experts, in).

    Returns:
        (..., experts), summing to 1; in the router's dtype, or in fp32 where autocast computes the product in less.
    """
    scores = linear(inputs.to(router.dtype), router)
    return torch.softmax(scores, dim=-1, dtype=router.dtype)
