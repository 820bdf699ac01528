"""GEM and A-GEM: sequential LoRA whose gradient may not raise the loss on samples of past tasks.

The gradient of a step is replaced by the nearest one whose product with the gradient on memory samples is not negative:
one constraint per past task (GEM, Lopez-Paz & Ranzato 2017), or one for all of them (A-GEM, Chaudhry et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...base.errors import CompatibilityError, Problem
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ...contract.task import TaskContext
from ...replay.memory import draw
from ..seqlora import SeqLoRA


if TYPE_CHECKING:
    from torch.nn import Module

    from ...contract.task import Memory


@dataclass(frozen=True)
class GEMConfig:
    """Options of GEM and A-GEM."""

    variant: Literal["gem", "agem"] = option(
        "gem", help="`gem`: one constraint per past task; `agem`: one for all past tasks together."
    )
    samples: int = option(16, minimum=1, help="Memory samples of each constraint, drawn anew at every step.")
    margin: float = option(
        0.0, minimum=0, help="Smallest share of each past task in a gradient that is changed (gamma); `gem` only."
    )

    def value_problems(self, where: str) -> list[Problem]:
        """A margin without effect."""
        if self.variant == "agem" and self.margin:
            what = "has no effect with `variant: agem`."
            return [Problem(f"{where}.margin", what, "Leave it out, or use `variant: gem`.")]
        return []


class GEM(SeqLoRA):
    """One LoRA with projected gradients."""

    name = "gem"
    title = "GEM"
    config_class = GEMConfig
    capabilities = Capabilities(
        needs_replay=True,
        needs="a replay buffer (`cl.replay`)",
        carries="one LoRA and the projector, and the replay buffer",
        reveals="training samples: the replay buffer holds them",
        step_cost="as plain LoRA plus forward and backward of the memory samples, for each past task (`agem`: once)",
        memory="as plain LoRA plus a gradient for each past task (`agem`: one)",
    )

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """As sequential LoRA.

        Raises:
            CompatibilityError: If there is no buffer to draw from.
        """
        if context.memory is None:
            fix = "Give one: `cl.replay.capacity_per_task` in a recipe, `replay={'capacity_per_task': 20}` in Python."
            raise CompatibilityError(Problem("cl.method.name", "'gem' needs a replay buffer, and there is none.", fix))
        return super().begin_task(context, model)

    def change_gradients(self, context: TaskContext, model: Module, step: int) -> None:
        """Project, from the second task on."""
        from .projection import projected
        from .reference import memory_gradient

        memory = context.memory
        if memory is None or not len(memory):
            return
        trained = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
        references = [memory_gradient(context, memory, model, trained, s) for s in self._drawn(context, memory, step)]
        changed = projected([p.grad for p in trained if p.grad is not None], references, self.config.margin)
        if changed is not None:
            for parameter, value in zip(trained, changed, strict=True):
                parameter.grad = value

    def _drawn(self, context: TaskContext, memory: Memory, step: int) -> list[list[int]]:
        """Numbers of the memory samples of each constraint."""
        groups: dict[str, list[int]] = {}
        for number, sample in enumerate(memory.samples):
            groups.setdefault(sample.task if self.config.variant == "gem" else "", []).append(number)
        found = []
        for task, members in groups.items():
            size = min(self.config.samples, len(members))
            places = draw(len(members), size, seed=context.seed, step=step, first=0, purpose=f"gem/{task}")
            found.append([members[place] for place in places])
        return found
