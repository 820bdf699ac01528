"""OSF: every target layer trains in the subspace of its small singular values; the large ones hold what was learned before.

Before each task ``W = U_h S_h V_h + U S V`` is computed anew from the weight that the earlier tasks have left. U, S and V train,
U and V in the complement of U_h and V_h (Nayak et al., *Sculpting Subspaces*, 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...base.schema import option
from ...contract.capabilities import Capabilities, Family
from ...contract.export import Export, Weights
from ...contract.method import Method, Route
from ...contract.names import is_own
from ...contract.task import TaskContext
from ..one_lora import ADAPTER


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate


FILE, STATISTIC = "weights.safetensors", "weights"


@dataclass(frozen=True)
class OSFConfig:
    """Options of OSF."""

    preserve: float = option(
        0.5, minimum=0.01, maximum=0.99, help="Share of the singular values that stay, of each target layer."
    )
    growth: float = option(0.0, minimum=0, maximum=1, help="Added to `preserve` at every further task, up to 0.99.")
    faithful: Literal["peer"] | None = option(
        None, help="`peer`: gradients are projected, as in PEFT, but not the steps that the optimizer makes of them."
    )


class OSF(Method):
    """Weights that train in the complement of what they hold."""

    name = "osf"
    title = "OSF"
    config_class = OSFConfig
    capabilities = Capabilities(
        low_rank=False,
        carries="the weights of the target layers, and the projector",
        step_cost="as full fine-tuning of the target layers, with four products per layer beside its own",
        memory="as full fine-tuning of the target layers, plus their singular vectors; on disk the weights and the update",
    )

    @classmethod
    def family(cls) -> Family:
        """Whole weights train, although the LoRA keys name the layers."""
        return "full"

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """The weights as they are, decomposed anew."""
        from .subspace import put_on

        share = min(self.config.preserve + self.config.growth * (context.index - 1), 0.99)
        base = context.base
        names = base.targets()
        found = base.prepare_frozen()
        for name in names:
            put_on(base, name, share)
        return found

    def after_step(self, context: TaskContext, model: Module, *, last: bool) -> None:
        """Optimizers such as Adam leave the subspace of the gradient; the step is put back into it."""
        from .subspace import keep_orthogonal

        if self.config.faithful is None:
            for name in context.base.targets():
                keep_orthogonal(context.base.model.get_submodule(name))

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """The weights that the task leaves."""
        from .subspace import change

        found = {}
        for name in context.base.targets():
            layer: Any = context.base.model.get_submodule(name)
            found[f"{name}.weight"] = (layer.weight.detach().float() + change(layer).detach()).cpu().contiguous()
        return {STATISTIC: found}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The weights of this task replace the earlier ones; what only earlier tasks have trained stays as it is."""
        from ...contract.carry import read_tensors
        from ..earlier import kept, tensor_names

        statistic = update.statistic(STATISTIC)
        rest = {name: value for name, value in update.load().items() if not is_own(name)}
        new = {*tensor_names(statistic), *rest}
        old, old_rest = [kept(previous, file, new) for file in (FILE, ADAPTER)]
        if old:
            writer.write(FILE, {**old, **read_tensors(statistic)})
        else:
            writer.link(statistic, FILE)
        if rest or old_rest:
            writer.write(ADAPTER, {**old_rest, **rest})

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with the carried weights."""
        base.reset()
        if carry is not None:
            for file in (FILE, *((ADAPTER,) if ADAPTER in carry.files else ())):
                for name, value in carry.load(file).items():
                    base.replace(name, value)
        return base.model

    def export(self, carry: Carry) -> Export:
        """The model itself."""
        return Weights()
