"""LwF: one LoRA, trained on all tasks in turn and distilled on the new samples from its state before the task.

``L = CE + alpha T^2 KL(softmax(z_old / T) || softmax(z_new / T))`` on answer tokens (Li & Hoiem 2016). The teacher is
the carried adapter on the same base: the model runs a second forward pass with the carried tensors in place of the trained
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...adapters.modes import looking
from ...base.errors import CompatibilityError, Problem
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ...contract.low_rank import PREFIX
from ...contract.names import saved_name
from ...contract.task import Batch, TaskContext
from ..one_lora import ADAPTER
from ..seqlora import SeqLoRA
from .distillation import distillation, echo_loss, unshifted_distillation


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.carry import Carry


@dataclass(frozen=True)
class LwFConfig:
    """Options of LwF."""

    alpha: float = option(0.5, minimum=0, help="Weight of the distillation; 0 gives sequential LoRA.")
    temperature: float = option(
        2.0, minimum=1e-3, help="Softens both distributions; a higher value gives unlikely tokens more weight."
    )
    faithful: Literal["easycl"] | None = option(
        None,
        help="`easycl` (or `peer`): follow this code base, including its errors; see the card.",
        aliases={"peer": "easycl"},
    )


class LwF(SeqLoRA):
    """One LoRA, distilled from its own state before the task."""

    name = "lwf"
    title = "LwF"
    config_class = LwFConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        encoders=True,
        zero_stages=(2,),
        carries="one LoRA and the projector, which is the teacher as well",
        step_cost="as plain LoRA plus one forward",
        memory="plus one more copy of the trained tensors and the logits of a micro-batch",
    )
    starts_at_zero = True

    def __init__(self, config: LwFConfig) -> None:
        super().__init__(config)
        self._cached: tuple[TaskContext, dict[str, Tensor]] | None = None

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """The distillation, from the second task on."""
        alpha, temperature = self.config.alpha, self.config.temperature
        if context.carry is None or (alpha == 0 and self.config.faithful is None):
            return {}
        old = self._teacher_logits(context, context.carry, model, batch)
        if old.shape[-1] == 1:  # the past is one class, whose probability is 1 under every model
            return {}
        new = batch.logits[..., : old.shape[-1]]  # of a head that grows, the old classes
        if self.config.faithful is None:
            return {"lwf": alpha * distillation(new, old, batch.labels, temperature)}
        late = unshifted_distillation(new, old, batch.labels, temperature)
        return {"lwf": alpha * late, "echo": (1 - alpha) * echo_loss(batch.logits, batch.labels)}

    def _teacher_logits(self, context: TaskContext, carry: Carry, model: Module, batch: Batch) -> Tensor:
        """A forward of the same model with the carried tensors, without dropout and without gradient."""
        import torch

        if self._cached is None or self._cached[0] is not context:
            self._cached = (context, teacher_tensors(carry, model))
        inputs = {k: v for k, v in batch.inputs.items() if k not in ("labels", "num_items_in_batch")}
        with looking(model):
            return torch.func.functional_call(model, self._cached[1], (), inputs).logits  # type: ignore[no-any-return]


def teacher_tensors(carry: Carry, model: Module) -> dict[str, Tensor]:
    """The carried values of the trained parameters, under the model's own names, on its device, in its dtypes.

    Raises:
        CompatibilityError: If something is trained that the carry does not hold.
    """
    carried = carry.load(ADAPTER)
    found, missing = {}, []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and saved_name(name) not in carried:
            missing.append(name.removeprefix(PREFIX))
        elif parameter.requires_grad:
            found[name] = carried[saved_name(name)].to(parameter.device, parameter.dtype)
    if missing:
        what = f"{len(missing)} trained tensors are not in the carried adapter (e.g. {missing[0]})."
        raise CompatibilityError(Problem("carry", what, "Train the same tensors in every task."))
    return found
