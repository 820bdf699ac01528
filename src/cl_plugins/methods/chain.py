"""A chain of LoRAs: ``W_t = W_0 + sum_{i<=t} s_i B_i A_i``, a fresh one per task, the past ones frozen.

What the methods with one update per task share: how the sum is carried, and where it is held. It lives in the weights
where that loses nothing (fp32), and as a frozen stack next to them where merging would round it away or cannot be done
(half-precision, quantised and partitioned bases).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..adapters.update import adapter_meta
from ..base.errors import CompatibilityError, Problem
from ..base.schema import option
from ..contract.base_model import BaseModel
from ..contract.capabilities import RunFacts
from ..contract.carry import TaskUpdate
from ..contract.export import Export, LowRankSum
from ..contract.method import Method, Route


if TYPE_CHECKING:
    from torch.nn import Module

    from ..contract.carry import Carry, CarryWriter
    from ..contract.task import TaskContext


@dataclass(frozen=True)
class ChainConfig:
    """Options that every chain of LoRAs has."""

    consolidate: Literal["auto", "merge", "stack"] = option(
        "auto",
        help="Merge past updates into the weights, keep them as a frozen stack, or decide by the base's precision.",
    )


def link_updates(previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
    """Carry all past updates and this one, each in its own file."""
    records = []
    for i, item in enumerate([*(carried_updates(previous) if previous is not None else []), update], start=1):
        name = f"updates/{i:02d}_{item.task}.safetensors"
        writer.link(item.tensors, name)
        records.append({"file": name, "task": item.task, "meta": item.meta})
    writer.meta["updates"] = records


def carried_updates(carry: Carry) -> list[TaskUpdate]:
    """One update per past task, in order."""
    return [TaskUpdate(carry.path / r["file"], r["meta"], r["task"]) for r in carry.meta["updates"]]


class LoRAChain(Method):
    """A fresh LoRA per task on the sum of the past ones."""

    config_class: ClassVar[type[Any]] = ChainConfig
    lora_per_task: ClassVar[bool] = True

    def problems(self, facts: RunFacts) -> list[Problem]:
        """Merging into weights that cannot hold the sum is refused."""
        found = []
        if self.config.consolidate == "merge":
            where = "cl.method.consolidate"
            if facts.quantisation is not None:
                found.append(Problem(where, "cannot merge into a quantised base.", "Use `consolidate: stack`."))
            if facts.zero_stage == 3:
                found.append(
                    Problem(where, "cannot merge into tensors that ZeRO-3 has split.", "Use `consolidate: stack`.")
                )
        return found

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """All past updates and this one, each in its own file."""
        link_updates(previous, update, writer)

    def export(self, carry: Carry) -> Export:
        """The base plus every update."""
        return LowRankSum(tuple(self.updates(carry)))

    def export_task(self, carry: Carry, task: str) -> Export | None:
        """The task's own update: a part of the model, trained on top of the ones before."""
        own = [update for update in self.updates(carry) if update.task == task]
        return LowRankSum(tuple(own), answers=False) if own else None

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """A fresh adapter on base and past."""
        return context.base.new_adapter(context.seed)

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Rank, scaling and targets of the adapter."""
        return adapter_meta(model)

    def updates(self, carry: Carry) -> list[TaskUpdate]:
        """One update per past task, in order."""
        return carried_updates(carry)

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base plus the updates, from the checkpoint's own tensors.

        Args:
            base: The base.
            carry: The carry.
            route: None for the whole chain, or the number of updates from its start.
        """
        from ..adapters.merge import merge_into

        base.reset()
        merges = self._merges(base)  # also before the first task: a base that cannot be merged into is refused at once
        if carry is None:
            return base.model
        records = self.updates(carry)
        updates = [item.low_rank() for item in (records if route is None else records[: int(str(route))])]
        if merges:
            merge_into(base, updates)
        else:
            base.attach(updates)
        return base.model

    def _merges(self, base: BaseModel) -> bool:
        if self.config.consolidate == "merge" and not base.can_merge:
            fix = "Use `consolidate: auto`, or load the base in fp32."
            what = "requests merging, but the base is not held as whole fp32 tensors, so the update would be rounded away."
            raise CompatibilityError(Problem("cl.method.consolidate", what, fix))
        return base.can_merge and self.config.consolidate != "stack"
