"""IncLoRA: train a fresh LoRA, add it to the model, start the next task with another fresh one.

``W_t = W_0 + sum_{i<=t} s_i B_i A_i`` (Li et al. 2025, replay-free sequential fine-tuning). The sum lives in the weights where that
loses nothing (fp32), and as a frozen stack beside them where merging would round it away or cannot be done
(half-precision, quantised and partitioned bases).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...adapters.carry import TaskUpdate
from ...errors import CompatibilityError, Problem
from ...schema import option
from ..base import BaseModel, Capabilities, Method, RunFacts


if TYPE_CHECKING:
    from torch.nn import Module

    from ...adapters.carry import Carry, CarryWriter
    from ...adapters.update import LowRankUpdate


@dataclass(frozen=True)
class IncLoRAConfig:
    """Options of ``inclora``."""

    consolidate: Literal["auto", "merge", "stack"] = option(
        "auto",
        help="Merge past updates into the weights, keep them as a frozen stack, or decide by the base's precision.",
    )


class IncLoRA(Method):
    """A fresh LoRA per task on the consolidated model."""

    name = "inclora"
    title = "IncLoRA"
    config_class = IncLoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        zero_stages=(2, 3),
        carries="the LoRA of every past task and the latest projector",
        step_cost="as plain LoRA when merged; one extra pair of matrices of the summed rank on the stack",
        memory="as plain LoRA when merged; on the stack plus the summed rank",
    )

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
        chain = self.updates(previous) if previous is not None else []
        records = []
        for i, item in enumerate([*chain, update], start=1):
            name = f"updates/{i:02d}_{item.task}.safetensors"
            writer.link(item.tensors, name)
            records.append({"file": name, "task": item.task, "meta": item.meta})
        writer.meta["updates"] = records

    def updates(self, carry: Carry) -> list[TaskUpdate]:
        """One update per past task, in order."""
        return [TaskUpdate(carry.path / r["file"], r["meta"], r["task"]) for r in carry.meta["updates"]]

    def restore(self, base: BaseModel, carry: Carry | None) -> Module:
        """The base plus all updates, from the checkpoint's own tensors."""
        base.reset()
        merges = self._merges(base)  # also before the first task: a base that cannot be merged into is refused at once
        if carry is None:
            return base.model
        updates = [load_update(update) for update in self.updates(carry)]
        if merges:
            merge_into(base, updates)
        else:
            base.attach(updates)
        return base.model

    def _merges(self, base: BaseModel) -> bool:
        if self.config.consolidate == "merge" and not base.can_merge:
            fix = "Use `consolidate: auto`, or load the base in fp32."
            what = "asks for merging, but the base is not held as whole fp32 tensors, so the update would be rounded away."
            raise CompatibilityError(Problem("cl.method.consolidate", what, fix))
        return base.can_merge and self.config.consolidate != "stack"


def load_update(update: TaskUpdate) -> LowRankUpdate:
    """Read one task's update from its file."""
    from ...adapters.update import LowRankUpdate

    return LowRankUpdate.from_state(update.load(), update.meta)


def merge_into(base: BaseModel, updates: list[LowRankUpdate]) -> None:
    """Set every touched weight to the checkpoint's value plus the sum of the updates."""
    from ...adapters.merge import merged_weight, modules, replaced

    for module in modules(updates):
        name = f"{module}.weight"
        base.replace(name, merged_weight(base.original(name), updates, module))
    for name, value in replaced(updates).items():
        base.replace(name, value)
