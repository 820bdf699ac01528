"""MoELoRA: a dense mixture of low-rank experts that keeps training, task after task.

``y = W x + s sum_i softmax(G x)_i B_i A_i drop_i(x)`` on every target layer (Chen et al., *CoIN*, NeurIPS 2024), with
``s = alpha / r`` of the total rank r and an independent dropout mask for every expert. Experts, routers and the
projector continue to train; nothing is frozen or added at a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...base.errors import Problem, RecipeError
from ...base.schema import option
from ...contract.capabilities import Capabilities, RunFacts
from ...contract.export import Export, Routed
from ...contract.method import Method, Route
from ...contract.task import TaskContext
from ..one_lora import ADAPTER
from ..same_options import check_same


if TYPE_CHECKING:
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate


@dataclass(frozen=True)
class MoELoRAConfig:
    """Options of `MoELoRA`."""

    experts: int = option(
        8, help="Experts of every layer; `lora_rank` is the rank of all of them together.", minimum=1
    )
    faithful: Literal["peer"] | None = option(
        None, help="`peer`: A is initialised from N(0, 0.01^2), as in the authors' code, and not as in PEFT."
    )


class MoELoRA(Method):
    """One bank of experts per layer for the whole stream."""

    name = "moelora"
    title = "MoELoRA"
    config_class: ClassVar[type[Any]] = MoELoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        answers="by_sample",
        per_sample=False,  # a token chooses for itself
        carries="experts and routers of one mixture, and the projector",
        step_cost="as plain LoRA of the same total rank, plus a router per layer; with `lora_dropout` one dropout per expert",
        memory="as plain LoRA of the same total rank plus the routers; with `lora_dropout` one masked input per expert",
    )

    def problems(self, facts: RunFacts) -> list[Problem]:
        """Also: a rank that the experts cannot share."""
        from .experts import check_rank

        rank = facts.keys.get("lora_rank")
        if not isinstance(rank, int):  # the host's default; `put_on` checks it
            return []
        try:
            check_rank(rank, self.config.experts)
        except RecipeError as error:
            return error.problems
        return []

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """The carried experts continue to train; the first task starts fresh ones."""
        return self._with_experts(context.base, context.seed) if context.carry is None else model

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Total rank, scaling, targets and number of experts."""
        return dict(self._meta)

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The mixture as this task left it and nothing else."""
        writer.link(update.tensors, ADAPTER)
        writer.meta["adapter"] = update.meta

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with the carried mixture.

        Raises:
            RunStateError: If the carry has another number of experts, rank or scaling.
        """
        from ...adapters.update import fill

        base.reset()
        if carry is None:
            return base.model
        model = self._with_experts(base, None)
        names = {"experts": "cl.method.experts", "rank": "lora_rank", "scaling": "lora_alpha"}
        check_same(carry.meta["adapter"], self._meta, names)
        fill(model, carry.load(ADAPTER))
        return model

    def export(self, carry: Carry) -> Export:
        """The experts are weighed for every token, so there is no sum to merge."""
        return Routed()

    def _with_experts(self, base: BaseModel, seed: int | None) -> Module:
        from .experts import put_on

        model, self._meta = put_on(base, self.config.experts, seed, peer=self.config.faithful == "peer")
        return model
