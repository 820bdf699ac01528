"""BranchLoRA: a shared trunk, branches that are chosen per row by a router of the task, the most used of them frozen.

``y = W x + s sum_{j in TopK(W_r^t x_0)} w_j B_j A x`` on every target layer (Zhang et al., ACL 2025): one A for all branches
and tasks, N branches B_j of rank r / N, and a router per task that reads the first token of a row. After a task the k
branches that it used most are frozen in every layer. At test the task's router is found by the distance of the row's
features to keys that every task has learned (selector `keys`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...base.errors import Problem, RecipeError
from ...contract.capabilities import Capabilities, RunFacts
from ...contract.export import Export, Routed
from ...contract.method import Method, Route
from ...contract.task import TaskContext
from ..one_lora import ADAPTER
from ..selecting import Selection, SelectorTerms
from .config import BranchLoRAConfig


if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.nn import Module

    from ...adapters.row_features import Rows
    from ...adapters.rows import RowState
    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate
    from .branches import Past
    from .gate import BranchGate


FROZEN, USAGE = "frozen.safetensors", "usage"


class BranchLoRA(SelectorTerms, Method):
    """One bank of branches per layer for the whole stream, with a router per task."""

    name = "branchlora"
    title = "BranchLoRA"
    config_class = BranchLoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        answers="by_sample",
        rows_in_training=True,
        grows=True,
        carries="trunk, branches and which of them are frozen, the router of every task, the selector's keys, and the projector",
        reveals="weights, and one direction per task and kind of features; no training samples",
        step_cost="as plain LoRA of the same total rank, plus a router per layer; after a task one forward per usage sample",
        memory="about (1 + 1/N) / 2 of plain LoRA of the same total rank, plus a router per layer and task",
    )

    def __init__(self, config: BranchLoRAConfig) -> None:
        super().__init__(config)
        self.selection = Selection(config.chosen_selector, continues=True)
        self._gates: dict[str, BranchGate] = {}
        self._meta: dict[str, Any] = {}
        self._numbers: dict[str, float] = {}
        able = type(self).capabilities
        chosen = self.selection.capabilities(able)
        if config.routers == "shared":
            able = replace(able, grows=False, carries="trunk, branches, one router per layer, and the projector")
            vars(self)["capabilities"] = replace(able, reveals="weights only, no training samples")
        else:
            vars(self)["capabilities"] = replace(chosen, carries=able.carries)

    def notes(self) -> list[str]:
        """How the routers were chosen."""
        return self.selection.note(self.title)

    def problems(self, facts: RunFacts) -> list[Problem]:
        """Also: a rank that the branches cannot share, and features that change from task to task."""
        from ..moelora.experts import check_rank

        found = self.selection.problems(facts)
        rank = facts.keys.get("lora_rank")
        if not isinstance(rank, int):  # the host's default; `put_on` checks it
            return found
        try:
            check_rank(rank, self.config.branches, "branches")
        except RecipeError as error:
            found += error.problems
        return found

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """Trunk, branches that are not frozen, a router and the selector's keys train."""
        base = context.base
        base.reset()
        self.selection.begin(context)
        past = None if context.carry is None else self._past(context.carry)
        branched = self._put_on(base, past, self._in_training, seed=context.seed, trained=True)
        self.selection.check_places(context, self, branched)
        self.selection.put_keys(context)
        return self._filled(branched, context.carry)

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Total rank, scaling, targets, and the options that later tasks must share."""
        return dict(self._meta)

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """How much the task used each branch, and what the selector has learned."""
        from ..usage import of_task

        found = self.selection.statistics(context)
        self._numbers = {}
        if not self.config.frozen_per_task:
            return found
        fix = "Use a data set with random access, or set `freeze: 0`."
        usage = of_task(context, model, self._gates, self.config.usage_samples, parts="branches", fix=fix)
        frozen = self._frozen(None if context.carry is None else self._past(context.carry), usage)
        count = sum(int(held.sum()) for held in frozen.values())
        self._numbers = {"frozen_branches_per_layer": count / max(len(frozen), 1)}
        return {**found, USAGE: usage}

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """Branches of a layer that are frozen now, on average, and how many samples the selector gives to the task."""
        return {**self._numbers, **self.selection.numbers()}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """Trunk and branches, which of them are frozen, the routers of all tasks, and the selector's keys."""
        from ...contract.carry import read_tensors
        from .branches import joined, layers_of, routers_of

        past = None if previous is None else self._past(previous)
        learned, meta = update.load(), update.meta
        tensors = joined(learned, past, self.config, int(meta["rank"]) // self.config.branches)
        writer.write(ADAPTER, tensors)
        usage = read_tensors(update.statistic(USAGE)) if self.config.frozen_per_task else {}
        frozen = self._frozen(past, usage, layers_of(tensors))
        writer.write(FROZEN, {name: held.byte() for name, held in frozen.items()})
        if self.config.routers == "per_task":
            records = [] if previous is None else list(previous.meta["routers"])
            for record in records:
                writer.link(previous.file(record["file"]), record["file"])  # type: ignore[union-attr]
            file = f"routers/{len(records) + 1:02d}_{update.task}.safetensors"
            writer.write(file, {name: tensor.clone() for name, tensor in routers_of(learned).items()})
            writer.meta["routers"] = [*records, {"task": update.task, "file": file}]
            self.selection.consolidate(previous, update, writer)
        writer.meta["adapter"] = meta

    def route(self, carry: Carry | None, task: str) -> Route:
        """The number of the task whose router answers, where the task is given; None for the latest."""
        names = () if carry is None else carry.tasks
        return names.index(task) if task in names[:-1] else None

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with trunk and branches, the routers of all tasks and what chooses among them.

        Args:
            base: The base.
            carry: The carry.
            route: Number of the task whose router answers every row; None for the selector's choice, or where it is told
                for the latest task.

        Raises:
            RunStateError: If the carry was made with other options, rank, scaling or layers.
        """
        base.reset()
        if carry is None:
            return base.model
        past, names = self._past(carry), carry.tasks
        if self.config.routers == "per_task" and self.selection.by_sample and route is None:
            begin = self.selection.chooser(carry, names)
        else:
            number = len(names) - 1 if route is None else int(route)
            begin = _fixed(number)
        branched = self._put_on(base, past, begin, seed=None, trained=False)
        return self._filled(branched, carry)

    def export(self, carry: Carry) -> Export:
        """The branches are chosen for every row, so there is no sum to merge."""
        return Routed()

    def _in_training(self, state: RowState, rows: Rows) -> None:
        """Every row is of the task that trains."""
        import torch

        rows.kept["expert"] = torch.zeros(rows.count, dtype=torch.int64)
        self.selection.see(state, rows)

    def _put_on(
        self,
        base: BaseModel,
        past: Past | None,
        begin: Callable[[RowState, Rows], None],
        *,
        seed: int | None,
        trained: bool,
    ) -> Module:
        from .branches import put_on

        branched = put_on(base, self.config, past, begin, seed=seed, trained=trained)
        self._gates = branched.gates
        self._meta = branched.meta
        return branched.model

    def _filled(self, model: Module, carry: Carry | None) -> Module:
        """Put back what is trained as a whole (the projector)."""
        import torch

        from ...adapters.update import fill
        from ...contract.names import trainable

        if carry is None:
            return model
        whole = {n: t for n, t in carry.load(ADAPTER).items() if not n.rpartition(".")[2].startswith("cl_")}
        own = {name: p for name, p in trainable(model).items() if name.rpartition(".")[2].startswith("cl_")}
        with torch.no_grad():
            fill(model, {**whole, **{name: p.detach().clone() for name, p in own.items()}})
        return model

    def _past(self, carry: Carry) -> Past:
        from .branches import Past

        records = carry.meta["routers"] if self.config.routers == "per_task" else []
        routers = [carry.load(record["file"]) for record in records]
        frozen = {name: held.bool() for name, held in carry.load(FROZEN).items()}
        return Past(carry.load(ADAPTER), frozen, routers, carry.meta["adapter"])

    def _frozen(
        self, past: Past | None, usage: dict[str, Tensor], layers: list[str] | None = None
    ) -> dict[str, Tensor]:
        """Layer -> which branches are frozen for the next task."""
        import torch

        from .freezing import frozen_after

        count, among_all = self.config.frozen_per_task, self.config.freeze_from == "all"
        found = {}
        for name in usage if layers is None else layers:
            before = torch.zeros(self.config.branches, dtype=torch.bool) if past is None else past.frozen[name]
            found[name] = frozen_after(usage[name], before, count, among_all=among_all) if name in usage else before
        return found


def _fixed(number: int) -> Callable[[RowState, Rows], None]:
    """Every row takes the router of one task; no route is noted, since none was chosen."""
    import torch

    def begin(state: RowState, rows: Rows) -> None:
        rows.kept["expert"] = torch.full((rows.count,), number, dtype=torch.int64)

    return begin
