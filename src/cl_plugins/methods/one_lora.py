"""One LoRA at a time: what methods share whose carry is the latest adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..adapters.update import adapter_meta, fill
from ..base.errors import CompatibilityError, Problem
from ..contract.carry import TaskUpdate
from ..contract.export import Export, LowRankSum
from ..contract.method import Method, Route


if TYPE_CHECKING:
    from torch.nn import Module

    from ..contract.base_model import BaseModel
    from ..contract.carry import Carry, CarryWriter
    from ..contract.task import TaskContext


ADAPTER = "adapter.safetensors"


class OneLoRA(Method):
    """A fresh LoRA per task, the latest of which is carried.

    A method that puts more on the model than the recipe's LoRA overrides `prepare`; its tensors are then trained, saved,
    carried and restored like the LoRA's.
    """

    def prepare(self, base: BaseModel, model: Module, carry: Carry | None) -> None:
        """Put the method's own modules and parameters on a model that has a new adapter.

        Called when a task begins and when a model is rebuilt from a carry, before its tensors are filled in.

        Args:
            base: The base; `BaseModel.register`, `hook` and `wrap` are undone by its `reset`.
            model: The model with its new adapter.
            carry: What the tasks left so far.
        """

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """A fresh adapter on the base."""
        adapted = context.base.new_adapter(context.seed)
        self.prepare(context.base, adapted, context.carry)
        return adapted

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Rank, scaling and targets of the adapter."""
        return adapter_meta(model)

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The adapter of this task and nothing else."""
        writer.link(update.tensors, ADAPTER)
        writer.meta["adapter"] = update.meta

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with the carried adapter."""
        base.reset()
        if carry is None:
            return base.model
        model = base.new_adapter()
        self.prepare(base, model, carry)
        fill(model, carry.load(ADAPTER), carry.meta["adapter"])
        return model

    def export(self, carry: Carry) -> Export:
        """The adapter.

        Raises:
            CompatibilityError: If the method puts more than a LoRA on the model and does not say what the result is.
        """
        if type(self).prepare is not OneLoRA.prepare:
            what = "adds tensors to the model (`prepare`) but does not define what `final/` is."
            fix = "Override `export`: a routed model is `Routed()`."
            raise CompatibilityError(Problem(f"method '{self.name}'", what, fix))
        return LowRankSum((TaskUpdate(carry.path / ADAPTER, carry.meta["adapter"], carry.tasks[-1]),))
