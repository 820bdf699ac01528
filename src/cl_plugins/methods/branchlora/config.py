"""Options of BranchLoRA; what the sources leave open is an option, with the paper's reading as the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ...base.errors import Problem
from ...base.schema import option
from ..selecting import SelectingConfig


@dataclass(frozen=True)
class BranchLoRAConfig(SelectingConfig):
    """Options of `BranchLoRA`."""

    branches: int = option(
        8, help="N, branches of every layer; `lora_rank` is the rank of all of them together.", minimum=1
    )
    top_k: int = option(2, help="k, branches that compute; N uses all of them (dense).", minimum=1)
    shared_trunk: bool = option(True, help="One A for all branches of a layer; `false`: every branch has its own.")
    gate_input: Literal["first", "mean_prompt", "token"] = option(
        "first",
        help="What a router reads: the first token of a row, the mean over its prompt, or every token for itself.",
    )
    gate_norm: Literal["selected", "all"] = option(
        "selected", help="Softmax over the k selected scores, or over all N, of which k are kept as they are."
    )
    routers: Literal["per_task", "shared"] = option(
        "per_task", help="A router per task, chosen by the selector at test, or one that trains in every task."
    )
    router_init: Literal["fresh", "previous"] = option(
        "fresh", help="A task's router starts from new values, or from the router of the task before."
    )
    init: Literal["lora", "normal"] = option(
        "lora", help="A starts as PEFT starts a LoRA, or from N(0, 0.01^2) as in the code of CoIN."
    )
    freeze: int | None = option(
        None, help="Branches of every layer that are frozen after a task; by default `top_k`, 0 for none.", minimum=0
    )
    freeze_by: Literal["probability", "selection"] = option(
        "probability",
        help="Which branches are used most: by the mean softmax of the router over all N, or by how often they are selected.",
    )
    freeze_from: Literal["all", "unfrozen"] = option(
        "all",
        help="`all`: branches that are frozen already count among the most used; `unfrozen`: only others are frozen.",
    )
    usage_samples: int = option(
        256, help="Training samples on which the use of the branches is measured after a task.", minimum=1
    )

    @property
    def frozen_per_task(self) -> int:
        """Branches of a layer that are frozen after a task; a single one never is by default."""
        if self.branches == 1 and self.freeze is None:
            return 0
        return self.top_k if self.freeze is None else self.freeze

    @property
    def chosen_selector(self) -> dict[str, Any] | None:
        """The selector: `keys` where there is a router per task and no other is named."""
        if self.routers == "per_task" and self.selector is None:
            return {"kind": "keys"}
        return self.selector

    def value_problems(self, where: str) -> list[Problem]:
        """Also: options that do not go together."""
        found = super().value_problems(where)
        if self.top_k > self.branches:
            what = f"is {self.top_k}, but there are {self.branches} branches."
            found.append(Problem(f"{where}.top_k", what, "Use at most `branches`."))
        if self.top_k == 1 < self.branches and self.gate_norm == "selected":
            what = "is 1: the softmax over one score is 1, so that no gradient reaches the routers."
            found.append(Problem(f"{where}.top_k", what, "Use 2 or more, or `gate_norm: all`."))
        if self.frozen_per_task > self.branches:
            what = f"is {self.frozen_per_task}, but there are {self.branches} branches."
            found.append(Problem(f"{where}.freeze", what, "Use at most `branches`."))
        elif self.branches == 1 and self.frozen_per_task:
            what = "would freeze the only branch."
            found.append(Problem(f"{where}.freeze", what, "Leave it out, or use more branches."))
        if self.routers == "shared" and self.selector is not None:
            what = "chooses the router of a task, but all tasks share one."
            found.append(Problem(f"{where}.selector", what, "Leave it out, or use `routers: per_task`."))
        return found
