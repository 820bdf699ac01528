"""CL-MoE: one mixture of low-rank experts whose experts are averaged with their past after every task.

``theta_t = lambda theta_{t-1} + (1 - lambda) phi_t`` (Huai et al., CVPR 2025), phi_t being the experts as task t has
trained them. ``lambda`` depends on whether an expert is exclusive to the task before: among its most used ones, and not among
those of task t. The layers are those of MoELoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import Problem
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ..moelora.method import MoELoRA
from ..one_lora import ADAPTER


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate
    from ...contract.task import TaskContext


USAGE = "usage"


@dataclass(frozen=True)
class CLMoEConfig:
    """Options of `CLMoE`."""

    experts: int = option(
        4, help="Experts of every layer; `lora_rank` is the rank of all of them together.", minimum=2
    )
    momentum: float = option(0.7, help="The larger weight of the average with the past.", minimum=0.5, maximum=1.0)
    protect_exclusive: bool = option(
        True,
        help="Experts exclusive to the task before keep `momentum` of what they were and others 1 - `momentum`; `false`: the "
        "other way round, as in the authors' code.",
    )
    top_experts: int = option(2, help="Most used experts of a task, per layer; fewer than `experts`.", minimum=1)
    top_ids: int = option(2, help="Experts that a token counts for: those with its largest router weights.", minimum=1)
    usage_samples: int = option(
        256, help="Training samples on which the use of the experts is measured after a task.", minimum=1
    )
    faithful: Literal["peer"] | None = option(
        None,
        help="`peer`: nothing is averaged, as in the authors' code, whose merge finds no tensor; and A is initialised from "
        "N(0, 0.01^2).",
    )

    def value_problems(self, where: str) -> list[Problem]:
        """Numbers of experts that do not fit."""
        found = []
        for key in ("top_experts", "top_ids"):
            if getattr(self, key) >= self.experts:
                what = f"is {getattr(self, key)} of {self.experts} experts, so that no expert is exclusive to a task."
                found.append(Problem(f"{where}.{key}", what, "Use fewer than `experts`."))
        return found


class CLMoE(MoELoRA):
    """MoELoRA with a momentum merge at every boundary."""

    name = "clmoe"
    title = "CL-MoE"
    config_class = CLMoEConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        answers="by_sample",
        per_sample=True,
        carries="experts and routers of one mixture, how much the latest task used each expert, and the projector",
        reveals="weights, and how often each expert was used by the latest task; no training samples",
        step_cost="as moelora; after a task one forward per usage sample",
        memory="as moelora",
    )

    def __init__(self, config: CLMoEConfig) -> None:
        super().__init__(config)
        self._gates: dict[str, Any] = {}
        self._exclusive: float | None = None

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """How much the task used each expert of each layer."""
        from ..usage import of_task
        from .merging import exclusive

        self._exclusive = None
        if self.config.faithful == "peer":
            return {}
        usage = of_task(context, model, self._gates, self.config.usage_samples, parts="experts")
        if context.carry is not None:
            before = context.carry.load(f"{USAGE}.safetensors")
            counts = [int(exclusive(before[n], use, self.config.top_experts).sum()) for n, use in usage.items()]
            self._exclusive = sum(counts) / len(counts)
        return {USAGE: usage}

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """Experts of a layer that were exclusive to the task before, on average."""
        return {} if self._exclusive is None else {"exclusive_experts_per_layer": self._exclusive}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The mixture, averaged with that before the task."""
        from ...contract.carry import read_tensors
        from .merging import exclusive, merged, weights_of_past

        if self.config.faithful == "peer":
            super().consolidate(previous, update, writer)
            return
        usage = read_tensors(update.statistic(USAGE))
        if previous is None:
            super().consolidate(previous, update, writer)
        else:
            before = previous.load(f"{USAGE}.safetensors")
            past = {
                name: weights_of_past(
                    exclusive(before[name], use, self.config.top_experts),
                    self.config.momentum,
                    protect=self.config.protect_exclusive,
                )
                for name, use in usage.items()
            }
            writer.write(ADAPTER, merged(previous.load(ADAPTER), update.load(), past))
            writer.meta["adapter"] = update.meta
        writer.link(update.statistic(USAGE), f"{USAGE}.safetensors")

    def _with_experts(self, base: BaseModel, seed: int | None) -> Module:
        from ..moelora.experts import put_on
        from .gate import CountedSoftmax

        self._gates = {}

        def gate_of(name: str, layer: Module) -> CountedSoftmax:
            self._gates[name] = CountedSoftmax(layer, self.config.top_ids)
            return self._gates[name]

        peer = self.config.faithful == "peer"
        model, self._meta = put_on(base, self.config.experts, seed, peer=peer, gate_of=gate_of)
        return model
