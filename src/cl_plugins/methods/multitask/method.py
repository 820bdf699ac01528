"""Multitask: one LoRA trained on the union of all training sets."""

from __future__ import annotations

from ...contract.capabilities import Capabilities
from ..one_lora import OneLoRA


class MultiTask(OneLoRA):
    """One LoRA, all tasks at once."""

    name = "multitask"
    title = "Multitask (joint)"
    capabilities = Capabilities(
        schedule="joint",
        encoders=True,
        quantised=("bnb",),
        fp16=True,
        zero_stages=(2,),
        carries="one LoRA and the projector; needs the data of all tasks at once",
    )
