"""An expert of low rank per task, each trained alone on the base, and weights for all of them per row at test.

What HiDe-LLaVA and DISCO share: how an expert is trained, what is carried, and how a row's weights come out of a selector.
Modules that train as a whole (a projector) continue from task to task; the latest one serves all experts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..adapters.update import adapter_meta
from ..base.errors import Problem
from ..contract.capabilities import Capabilities, RunFacts
from ..contract.export import Export, LowRankSum, Routed
from ..contract.method import Method, Route
from .chain import carried_updates, link_updates
from .selecting import Selection, SelectorTerms


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.bank import Experts
    from ..contract.base_model import BaseModel
    from ..contract.carry import Carry, CarryWriter, TaskUpdate
    from ..contract.low_rank import LowRankUpdate
    from ..contract.task import TaskContext
    from ..selectors import Selector
    from ..selectors.router import Learned


def row_softmax(scores: Tensor, temperature: float) -> Tensor:
    """``softmax(scores / temperature)`` over the tasks.

    Args:
        scores: (rows, tasks).
        temperature: Divisor of the scores.

    Returns:
        (rows, tasks), summing to 1.
    """
    import torch

    return torch.softmax(scores / temperature, dim=-1)


class WeightedExperts(SelectorTerms, Method):
    """An expert per task, weighted per row by the softmax of a selector's scores.

    The options have ``selector``, ``temperature``, ``faithful`` and ``experts``, see `hide.HiDe` and `disco.DISCO`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.selection = Selection(config.selector, continues=True)
        vars(self)["capabilities"] = self.selection.capabilities(type(self).capabilities)

    @abstractmethod
    def weighted(self, base: BaseModel) -> Callable[[str], bool]:
        """Whether the experts of a layer are weighted; given as a function of its name."""

    @abstractmethod
    def peer_scores(self, selector: Selector, prepared: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
        """Scores of a batch as the authors' code computes them, (rows or 1, tasks)."""

    def fuse(self, tasks: Sequence[Learned], layer: str) -> Experts:
        """The experts of a layer where they are not weighted; by default their sum."""
        from ..selectors.weighted import separate

        return separate(tasks, layer)

    @property
    def peer(self) -> bool:
        """Whether the authors' code is reproduced."""
        return bool(self.config.faithful == "peer")

    def notes(self) -> list[str]:
        """How the weights came about."""
        found = self.selection.note(self.title)
        if self.peer:
            what = (
                "the weights of a question depend on the questions in the same batch (`per_device_eval_batch_size`)."
            )
            found.append(f"{self.title}, faithful: peer: {what}")
        return found

    def problems(self, facts: RunFacts) -> list[Problem]:
        """Features that change from task to task, and what the authors' code cannot do."""
        found, where = self.selection.problems(facts), "cl.method.selector"
        selector = self.selection.selector
        if self.peer and (selector is None or selector.kind != "anchors"):
            what = "is the authors' rule for anchors."
            found.append(Problem("cl.method.faithful", what, f"Use `{where}.kind: anchors`, or leave `faithful` out."))
        if self.config.experts is not None and not self.peer:
            what = "counts experts that are not trained yet, which have no weight here."
            found.append(Problem("cl.method.experts", what, "Use it with `faithful: peer`, or leave it out."))
        return found

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """A fresh expert on the base, with the modules that continue; the experts of earlier tasks take no part."""
        base = context.base
        base.reset()
        self._put_latest(base, context.carry)
        self.selection.begin(context)
        adapted = base.new_adapter(context.seed)
        self.selection.check_places(context, self, adapted)
        self.selection.prepare(context)
        return adapted

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Rank, scaling and targets of the expert."""
        return adapter_meta(model)

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """What the selector measures."""
        return self.selection.statistics(context)

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """How many of the task's samples the selector gives to it."""
        return self.selection.numbers()

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The experts of all tasks, and the selector's statistics."""
        link_updates(previous, update, writer)
        self.selection.consolidate(previous, update, writer)

    def route(self, carry: Carry | None, task: str) -> Route:
        """The number of the task's expert, where the task is given; None for the latest."""
        names = [] if carry is None else [update.task for update in carried_updates(carry)]
        return names.index(task) if task in names[:-1] else None

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with all experts; the latest projector serves them all."""
        from ..selectors.router import Learned
        from ..selectors.weighted import put_on, put_on_told

        base.reset()
        if carry is None:
            return base.model
        tasks = [Learned(update.task, update.low_rank()) for update in carried_updates(carry)]
        self._put_latest(base, carry, [learned.update for learned in tasks])
        if not self.selection.by_sample:
            told = len(tasks) - 1 if route is None else int(route)
            return put_on_told(base, tasks, told, fuse=self.fuse, weighted=self.weighted(base))
        selector, carried = self.selection.carried(carry)
        return put_on(base, tasks, selector, carried, weigh=self._weigh, fuse=self.fuse, weighted=self.weighted(base))

    def export(self, carry: Carry) -> Export:
        """The experts are weighted for every row, so there is no sum to merge."""
        return Routed()

    def export_task(self, carry: Carry, task: str) -> Export | None:
        """The task's own expert, with the projector as the task left it."""
        own = [update for update in carried_updates(carry) if update.task == task]
        return LowRankSum(tuple(own)) if own else None

    def _weigh(self, selector: Selector, prepared: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
        """Weights of the learned tasks, (rows, tasks)."""
        from torch.nn.functional import pad

        if not self.peer:
            return row_softmax(selector.scores(dict(prepared), vectors), self.config.temperature)
        scores = self.peer_scores(selector, prepared, vectors)
        learned = scores.shape[-1]
        scores = pad(scores, (0, max(0, (self.config.experts or 0) - learned)))  # the rest has similarity 0
        return row_softmax(scores, self.config.temperature)[..., :learned].expand(len(vectors), -1)

    def _put_latest(
        self, base: BaseModel, carry: Carry | None, updates: Sequence[LowRankUpdate] | None = None
    ) -> None:
        """Put the modules that continue in place, as the latest task left them."""
        from ..adapters.merge import replaced

        if carry is None:
            return
        found = [update.low_rank() for update in carried_updates(carry)] if updates is None else updates
        for name, value in replaced(found).items():
            base.replace(name, value)


#: Words of the declarations that both methods share.
SHARED = Capabilities(
    answers="by_sample",
    quantised=("bnb",),
    grows=True,
    carries="the LoRA of every task, the latest projector, and the statistics of the selector",
    reveals="weights, and one mean feature vector per task and feature; no training samples",
    step_cost="as plain LoRA; at the end of a task one pass of the tower over its samples",
)
