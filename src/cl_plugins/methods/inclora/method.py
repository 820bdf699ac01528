"""IncLoRA: train a fresh LoRA, add it to the model, start the next task with another fresh one.

``W_t = W_0 + sum_{i<=t} s_i B_i A_i`` (Li et al. 2025, replay-free sequential fine-tuning).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...contract.capabilities import Capabilities
from ..chain import ChainConfig, LoRAChain


_MOVED = "That is `name: mslora_cr` with `inference: all` and the same value."


@dataclass(frozen=True)
class IncLoRAConfig(ChainConfig):
    """Options of `IncLoRA`."""

    REMOVED: ClassVar[dict[str, str]] = {"alpha": _MOVED, "beta": _MOVED}


class IncLoRA(LoRAChain):
    """A fresh LoRA per task on the consolidated model."""

    name = "inclora"
    title = "IncLoRA"
    config_class = IncLoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        fp16=True,
        zero_stages=(2, 3),
        grows=True,
        carries="the LoRA of every past task and the latest projector",
        step_cost="as plain LoRA when merged; one extra pair of matrices of the summed rank on the stack",
        memory="as plain LoRA when merged; on the stack plus the summed rank",
    )
