"""The gate of a layer: one expert by what the row shows, one by what it asks, weighed for every token.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear, one_hot

from ..row_gates import check_shape, prompt_mean


if TYPE_CHECKING:
    from ...adapters.rows import RowState


#: Names on a layer: the routers, (experts / 2, in) and (experts / 2, hidden), and the fusion, (2, in).
VISUAL, INSTRUCTION, FUSION = "cl_visual_router", "cl_instruction_router", "cl_fusion"


def hard_gate(scores: Tensor, learn: float) -> Tensor:
    """One-hot weights of the largest score, whose gradient is that of the softmax.

    ``w = onehot + c (p - stopgrad(p))``, ``p = softmax(scores)``: the value is the one-hot vector, the gradient c times that
    of p.

    Args:
        scores: (rows, experts).
        learn: c; 0 for routers that stay as they are.

    Returns:
        (rows, experts).
    """
    p = torch.softmax(scores, dim=-1)
    chosen = one_hot(scores.argmax(dim=-1), scores.shape[-1]).to(p.dtype)
    return chosen + learn * (p - p.detach())


class SeparateGate:
    """Weights of the experts of a layer; the first half are the visual ones.

    Args:
        name: Name of the layer.
        layer: The layer, which has both routers and the fusion.
        state: The row state; ``kept["instruction"]``, (rows, hidden), describes what a row asks.
        learn: See `hard_gate`.
    """

    def __init__(self, name: str, layer: Any, state: RowState, learn: float) -> None:
        self._name, self._layer, self._state, self._learn = name, layer, state, learn

    def __call__(self, inputs: Tensor) -> Tensor:
        """The two experts of a row, weighed by ``softmax(F x)`` of every token.

        Args:
            inputs: (rows, length, in).

        Returns:
            (rows, length, experts), in the routers' precision.

        Raises:
            CompatibilityError: If the layer does not see the prompt's tokens.
        """
        visual, instruction = getattr(self._layer, VISUAL), getattr(self._layer, INSTRUCTION)
        count = 2 * len(visual)
        if self._state.off:
            return inputs.new_zeros(len(inputs), count)
        rows, kept = self._state.current, f"gate:{self._name}"
        with torch.autocast(inputs.device.type, enabled=False):
            if rows.fresh:
                check_shape(self._name, inputs, rows)
                shown = linear(prompt_mean(inputs, rows).to(visual.dtype), visual)
                asked = linear(rows.kept["instruction"].to(inputs.device, instruction.dtype), instruction)
                chosen = torch.stack([hard_gate(shown, self._learn), hard_gate(asked, self._learn)], dim=1)
                rows.kept[kept] = chosen.detach()
            else:
                chosen = rows.kept[kept].to(inputs.device)
            fusion = getattr(self._layer, FUSION)
            shares = torch.softmax(linear(inputs.to(fusion.dtype), fusion), dim=-1)
            return (shares[..., :, None] * chosen[:, None]).flatten(-2)
