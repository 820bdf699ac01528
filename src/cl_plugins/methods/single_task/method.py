"""Single task: every task trains its own LoRA from the base, as if the others did not exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...adapters.update import fill
from ...base.errors import Problem
from ...contract.capabilities import Capabilities, RunFacts
from ...contract.export import Export, LowRankSum, Routed
from ...contract.method import Route
from ..chain import carried_updates, link_updates
from ..one_lora import OneLoRA
from ..selecting import Selecting, SelectingConfig, Selection


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate
    from ...contract.task import TaskContext


@dataclass(frozen=True)
class SingleTaskConfig(SelectingConfig):
    """Options of `SingleTask`."""


class SingleTask(Selecting, OneLoRA):
    """An independent LoRA per task; with a selector all of them, one of which answers."""

    name = "single_task"
    title = "Single task"
    config_class: ClassVar[type[Any]] = SingleTaskConfig
    capabilities = Capabilities(
        schedule="independent",
        quantised=("bnb",),
        fp16=True,
        zero_stages=(2,),
        carries="nothing to the next task; the latest adapter is kept so that it can be tested",
    )

    def __init__(self, config: SingleTaskConfig) -> None:
        super().__init__(config)
        self.selection = Selection(config.selector, routers=True)
        vars(self)["capabilities"] = self.selection.capabilities(type(self).capabilities)

    def notes(self) -> list[str]:
        """How the questions were answered, with a selector."""
        return self.selection.note(self.title)

    def problems(self, facts: RunFacts) -> list[Problem]:
        """What speaks against the selector."""
        return [*super().problems(facts), *self.selection.problems(facts)]

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """A fresh adapter on the base, whatever was learned before."""
        if self.selection.selector is not None:
            context.base.reset()
            self.selection.begin(context)
        adapted = super().begin_task(context, model)
        self.selection.check_places(context, self, adapted)
        self.selection.prepare(context)
        return adapted

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Rank, scaling and targets of the adapter, and what a selector that learns has to know of the task."""
        return {**super().describe(context, model), **self.selection.describe(context)}

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """What the selector measures."""
        return self.selection.statistics(context, model)

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """How many of the task's samples the selector gives to it."""
        return self.selection.numbers()

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The adapter of this task; with a selector those of all tasks and its statistics."""
        if self.selection.selector is None:
            super().consolidate(previous, update, writer)
            return
        link_updates(previous, update, writer)
        self.selection.consolidate(previous, update, writer)

    def route(self, carry: Carry | None, task: str) -> Route:
        """The number of the task's adapter, where the task is given; None for the latest."""
        names = [] if carry is None else [update.task for update in carried_updates(carry)]
        return names.index(task) if task in names[:-1] else None

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with the adapter that answers; with a selector with all of them."""
        if self.selection.selector is None:
            return super().restore(base, carry, route)
        base.reset()
        if carry is None:
            return base.model
        updates = carried_updates(carry)
        if self.selection.by_sample:
            return self.selection.restore(base, carry, updates)
        update = updates[-1 if route is None else int(route)]
        model = base.new_adapter()
        fill(model, update.load(), update.meta)
        return model

    def export(self, carry: Carry) -> Export:
        """The adapter; with a selector the model that chooses."""
        if self.selection.selector is None:
            return super().export(carry)
        return Routed() if self.selection.by_sample else LowRankSum((carried_updates(carry)[-1],))

    def export_task(self, carry: Carry, task: str) -> Export | None:
        """The task's own adapter, which answers its questions by itself."""
        if self.selection.selector is None:
            return super().export_task(carry, task)
        own = [update for update in carried_updates(carry) if update.task == task]
        return LowRankSum(tuple(own)) if own else None
