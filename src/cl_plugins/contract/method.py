"""The method contract: the few questions that every continual-learning method answers.

A method never imports LLaMA-Factory. What it needs from the host (a fresh adapter, the base's tensors) is handed to
it as a `BaseModel`, by the runner or by a test.

Life of a task::

    model = method.restore(base, carry)            # the model that answers, rebuilt from what was written
    model = method.begin_task(context, model)      # what is trained
    ...training...
    state = method.end_task(context, model)        # tensors, written to tasks/<nn>_<task>/update.safetensors
    extra = method.statistics(context, model)      # Fisher, positions, ...: tasks/<nn>_<task>/<name>.safetensors
    method.consolidate(previous, update, writer)   # the next carry, written from files only
    model = method.restore(base, next_carry)       # and from here on, again
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.errors import Problem
from .capabilities import Capabilities, NoOptions, RunFacts


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from .base_model import BaseModel
    from .carry import Carry, CarryWriter, TaskUpdate
    from .task import Batch, TaskContext


class Method(ABC):
    """Base class of all methods. Most override one or two answers.

    Attributes:
        name: Name in recipes and in the entry point.
        title: Name for people.
        config_class: Frozen dataclass of the options under ``cl.method``.
        capabilities: What it can do and needs.
        starts_at_zero: Whether its terms measure the way from where the task began, and so are zero at the first step.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: ClassVar[type[Any]] = NoOptions
    capabilities: ClassVar[Capabilities] = Capabilities()
    starts_at_zero: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def penalised(self) -> bool:
        """Whether `penalties` may return a term; what cannot add its gradient (ZeRO) is refused then."""
        return type(self).penalties is not Method.penalties

    @property
    def reads_logits(self) -> bool:
        """Whether `batch_terms` may return a term; what computes a loss without logits is refused then."""
        return type(self).batch_terms is not Method.batch_terms

    def notes(self) -> list[str]:
        """What a reader of the scores must know about how they came about; printed in every report."""
        return []

    def problems(self, facts: RunFacts) -> list[Problem]:
        """What speaks against this run, beyond the declared capabilities."""
        return []

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """Return the model to train. Default: a fresh adapter on the base.

        Args:
            context: The task.
            model: What `restore` gave.
        """
        return context.base.new_adapter(context.seed)

    def penalties(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """Named scalar terms that join the loss; called once per optimizer step, so worth the same in any batch layout."""
        return {}

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms of one micro-batch that join its loss; weighted among micro-batches as the loss is.

        Called after the forward and before the backward. ``model`` is not wrapped: forwards of the method's own (a
        teacher, a buffer) go through it.
        """
        return {}

    def end_task(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The tensors that this task has learned (default: the adapter, under PEFT's names)."""
        from ..adapters.update import adapter_state

        return adapter_state(model)

    def describe_update(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """JSON that is needed to use the tensors again (default: rank and scaling of the adapter)."""
        from ..adapters.update import adapter_meta

        return adapter_meta(model)

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """What else the next tasks need: name -> tensors; `TaskUpdate.statistic` gives the file to `consolidate`.

        What belongs to single samples of the replay buffer has names of its own, see `Memory.chosen`.
        """
        return {}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """Write the next carry from files alone (default: the update of this task and nothing else)."""
        writer.link(update.tensors, "adapter.safetensors")
        writer.meta["adapter"] = update.meta

    def route(self, carry: Carry | None, task: str) -> Hashable:
        """What, beside the carry, decides which model answers a task's questions; None (the default): nothing does.

        Models are rebuilt only when carry or route change.
        """
        return None

    def restore(self, base: BaseModel, carry: Carry | None, route: Hashable = None) -> Module:
        """Rebuild the model that answers from the base and a carry; the one code path for it.

        Args:
            base: The base.
            carry: What the tasks left so far, None before the first.
            route: None for the model that the next task starts from, else what `route` gave.
        """
        from ..adapters.update import load_adapter

        base.reset()
        if carry is None:
            return base.model
        model = base.new_adapter()
        load_adapter(model, carry.load("adapter.safetensors"), carry.meta["adapter"])
        return model

    def updates(self, carry: Carry) -> list[TaskUpdate]:
        """The low-rank updates whose sum on the base is the model, in order; for exports."""
        from .carry import TaskUpdate

        return [TaskUpdate(carry.path / "adapter.safetensors", carry.meta["adapter"])]
