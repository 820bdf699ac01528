"""IncLoRA: train a fresh LoRA, add it to the model, start the next task with another fresh one.

``W_t = W_0 + sum_{i<=t} s_i B_i A_i`` (Li et al. 2025, replay-free sequential fine-tuning).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...base.schema import option
from ...contract.capabilities import Capabilities
from ..chain import ChainConfig
from ..mslora_cr.regulariser import RegularisedChain, Regulariser


@dataclass(frozen=True)
class IncLoRAConfig(ChainConfig):
    """Options of `IncLoRA`."""

    alpha: float = option(
        0.0, help="Weight of MSLoRA-CR's contrastive term; not 0: every task needs a modality label.", minimum=0.0
    )
    beta: float = option(0.0, help="Weight of MSLoRA-CR's orthonormality term.", minimum=0.0)


class IncLoRA(RegularisedChain):
    """A fresh LoRA per task on the consolidated model."""

    name = "inclora"
    title = "IncLoRA"
    config_class = IncLoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        zero_stages=(2, 3),
        carries="the LoRA of every past task and the latest projector",
        step_cost="as plain LoRA when merged; one extra pair of matrices of the summed rank on the stack",
        memory="as plain LoRA when merged; on the stack plus the summed rank",
    )

    def __init__(self, config: IncLoRAConfig) -> None:
        super().__init__(config)
        self.regulariser = Regulariser(config.alpha, config.beta)
