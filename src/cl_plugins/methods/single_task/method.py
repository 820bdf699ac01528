"""Single task: every task trains its own LoRA from the base, as if the others did not exist."""

from __future__ import annotations

from ...contract.capabilities import Capabilities
from ..one_lora import OneLoRA


class SingleTask(OneLoRA):
    """An independent LoRA per task."""

    name = "single_task"
    title = "Single task"
    capabilities = Capabilities(
        schedule="independent",
        quantised=("bnb",),
        zero_stages=(2,),
        carries="nothing to the next task; the latest adapter is kept so that it can be tested",
    )
