"""Sequential full fine-tuning: all weights that the host marks as trainable continue to train.

With ``freeze_multi_modal_projector: false`` these are the language model and the projector; the vision tower stays
frozen (Li et al. 2025, section 5.3 of the replay-free study).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...adapters.partitioned import size
from ...contract.base_model import BaseModel
from ...contract.capabilities import Capabilities
from ...contract.export import Export, Weights
from ...contract.method import Method, Route
from ...contract.task import TaskContext


if TYPE_CHECKING:
    from torch.nn import Module

    from ...contract.carry import Carry, CarryWriter, TaskUpdate


WEIGHTS = "weights.safetensors"


class SeqFull(Method):
    """Sequential full fine-tuning."""

    name = "seqfull"
    title = "Sequential full fine-tuning"
    capabilities = Capabilities(
        finetuning_types=("full",),
        low_rank=False,
        zero_stages=(2, 3),
        encoders=True,
        carries="every weight that was trained",
        step_cost="as plain full fine-tuning",
        memory="as plain full fine-tuning; one set of weights on disk",
    )

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """The weights as they are."""
        return model

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """How many weights were trained."""
        return {"parameters": sum(size(p) for p in model.parameters() if p.requires_grad)}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The weights of this task replace the earlier ones."""
        writer.link(update.tensors, WEIGHTS)
        writer.meta["weights"] = update.meta

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with its trainable tensors replaced; a carry holds all of them, so nothing is put back before."""
        model = base.prepare_full()
        if carry is None:
            base.reset()
            return model
        for name, value in carry.load(WEIGHTS).items():
            base.replace(name, value)
        return model

    def export(self, carry: Carry) -> Export:
        """The model itself."""
        return Weights()
