"""Sequential LoRA: task k continues to train the adapter that task k-1 left, with a fresh optimizer and schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...contract.capabilities import Capabilities
from ...contract.task import TaskContext
from ..one_lora import OneLoRA


if TYPE_CHECKING:
    from torch.nn import Module


class SeqLoRA(OneLoRA):
    """One LoRA for the whole stream."""

    name = "seqlora"
    title = "Sequential LoRA"
    capabilities = Capabilities(
        quantised=("bnb",),
        fp16=True,
        zero_stages=(2,),
        carries="one LoRA and the projector",
    )

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """The carried adapter continues to train; the first task starts a fresh one."""
        if context.carry is None:
            return super().begin_task(context, model)
        return model
