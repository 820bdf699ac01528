"""SMoLoRA: one expert for what a row shows and one for what it asks, in every layer.

``y = W x + s (f_1 B_v A_v x + f_2 B_i A_i x)``, ``f = softmax(F x)`` for every token (Wang et al., *SMoLoRA*, ICCV 2025). v is the
best of the visual experts for the mean of the layer's input over the prompt, i the best of the instruction experts for the
mean embedding of the prompt's words. Both are chosen once per row. Experts, routers and projector continue to train.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import Problem
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ..moelora.method import MoELoRA


if TYPE_CHECKING:
    from torch.nn import Module

    from ...adapters.row_features import Rows
    from ...contract.base_model import BaseModel


@dataclass(frozen=True)
class SMoLoRAConfig:
    """Options of `SMoLoRA`."""

    experts: int = option(
        8,
        help="Experts of every layer, half of them visual; `lora_rank` is the rank of all of them together.",
        minimum=2,
    )
    faithful: Literal["peer"] | None = option(
        None,
        help="`peer`: no gradient reaches the routers, as in the authors' code, so that routing stays at its random start; and A is "
        "initialised from N(0, 0.01^2).",
    )

    def value_problems(self, where: str) -> list[Problem]:
        """A number of experts that has no half."""
        if self.experts % 2 == 0:
            return []
        return [Problem(f"{where}.experts", f"is {self.experts}, of which half are visual.", "Use an even number.")]


class SMoLoRA(MoELoRA):
    """Two kinds of experts per layer, one of each chosen per row."""

    name = "smolora"
    title = "SMoLoRA"
    config_class = SMoLoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        answers="by_sample",
        rows_in_training=True,
        carries="experts, both routers and the fusion of one mixture, and the projector",
        step_cost="as plain LoRA of the same total rank, plus two routers and the fusion per layer",
        memory="as plain LoRA of the same total rank plus the routers; with `lora_dropout` one masked input per expert",
    )

    def _with_experts(self, base: BaseModel, seed: int | None) -> Module:
        import torch

        from ...adapters import bank
        from ..moelora.experts import put_on
        from ..row_gates import check_places
        from .gate import FUSION, INSTRUCTION, VISUAL, SeparateGate

        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        learn = 0.0 if self.config.faithful == "peer" else 1.0
        hidden = int(base.model.get_input_embeddings().weight.shape[1])  # type: ignore[operator, union-attr]
        state = base.rows(_begin)

        def gate_of(name: str, layer: Any) -> bank.Gate:
            check_places(base.model, [name])
            width, half = layer.in_features, self.config.experts // 2
            device = next(layer.parameters()).device
            for own, shape in ((VISUAL, (half, width)), (INSTRUCTION, (half, hidden)), (FUSION, (2, width))):
                value = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])
                base.register(f"{name}.{own}", value.to(device), trained=True)
            return SeparateGate(name, layer, state, learn)

        peer = self.config.faithful == "peer"
        model, self._meta = put_on(base, self.config.experts, seed, peer=peer, gate_of=gate_of, router=False)
        return model


def _begin(rows: Rows) -> None:
    """What a row asks: the mean embedding of the words of its prompt."""
    rows.kept["instruction"] = rows.text
