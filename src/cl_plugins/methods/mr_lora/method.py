"""MR-LoRA: independent experts, one per task, and a router that reads the question and names one of them.

Zhao et al., *MLLM-CL* (2025). The experts are those of `single_task`, each trained from the base alone. The router is the
selector ``mllm``: a LoRA on the same base, trained on a few kept samples of every task in a second phase of each task from
the second one on. The other selectors work on the same experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...base.schema import option
from ...contract.capabilities import Capabilities
from ..single_task import SingleTask
from ..single_task.method import SingleTaskConfig


@dataclass(frozen=True)
class MRLoRAConfig(SingleTaskConfig):
    """Options of `MRLoRA`."""

    selector: dict[str, Any] = option(
        factory=lambda: {"kind": "mllm"},
        help="Who chooses the expert: `{kind: mllm}` as in the paper, or another selector with its options.",
    )


class MRLoRA(SingleTask):
    """An independent LoRA per task, one of which a router LoRA chooses for every question."""

    name = "mr_lora"
    title = "MR-LoRA"
    config_class = MRLoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        answers="by_sample",
        grows=True,
        needs_replay=True,
        memory_forward=False,
        needs="a replay buffer for the router (not with other selectors than `mllm`)",
        carries="the LoRA and the projector of every task, the router's, and the replay buffer that it is trained on",
        reveals="weights, and the training samples in the replay buffer",
        step_cost="as plain LoRA; the router trains in addition, on the kept samples",
        memory="as plain LoRA in training; at test the LoRAs of all tasks and the router next to the model",
    )
