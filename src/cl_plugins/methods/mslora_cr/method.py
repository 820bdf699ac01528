"""MSLoRA-CR: a LoRA per task on a frozen base, with a contrastive term over modalities and an orthonormality term.

``W_k = W_0 + sum_{i<=k} s B_i A_i`` answers the questions of task k (Zhang et al., ACM MM 2025): the task must be known
at test, and since its model never changes again, nothing is forgotten by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import Problem
from ...base.schema import nearest, option
from ...contract.capabilities import Answers, Capabilities, RunFacts
from ...contract.carry import TaskUpdate
from ...contract.export import Export, LowRankSum, Routed
from ...contract.method import Route
from ...contract.task import TaskContext
from ..chain import ChainConfig, LoRAChain
from ..selecting import Selecting, SelectingConfig, Selection
from .regulariser import Regulariser


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter


@dataclass(frozen=True)
class MSLoRACRConfig(ChainConfig, SelectingConfig):
    """Options of `MSLoRACR`."""

    alpha: float = option(
        0.1, help="Weight of the contrastive term; 0 leaves it out and needs no modality labels.", minimum=0.0
    )
    beta: float = option(0.01, help="Weight of the orthonormality term; 0 leaves it out.", minimum=0.0)
    learnable: bool = option(
        False,
        help="Train the weights that are not 0 as exp(parameter), starting from exp(-4.6) instead of their values.",
    )
    inference: str = option(
        "first_k",
        help="Which LoRAs answer: `first_k` (task k by the first k; the task is known at test), `all`, or a task's name "
        "(all questions by the model as it was after that task).",
    )
    faithful: Literal["peer"] | None = option(
        None, help="`peer`: the orthonormality term also counts the frozen LoRAs, which divides its gradient by k."
    )


class MSLoRACR(Selecting, LoRAChain):
    """A LoRA per task with contrastive regularisation."""

    name = "mslora_cr"
    title = "MSLoRA-CR"
    config_class = MSLoRACRConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        answers="by_task",
        grows=True,
        needs="modality labels (unless `alpha: 0`); the task at test (with `inference: first_k`)",
        carries="the LoRA and the modality label of every past task, and the latest projector if it trains",
        reveals="weights and the names of the modalities, no training samples",
        step_cost="as inclora, plus distances to every past LoRA: one pass over their tensors",
        memory="as inclora, plus the LoRAs of all past tasks next to the model",
    )

    def __init__(self, config: MSLoRACRConfig) -> None:
        super().__init__(config)
        self.regulariser = Regulariser(
            config.alpha, config.beta, learnable=config.learnable, peer=config.faithful == "peer"
        )
        self.selection = Selection(config.selector, routers=True)
        vars(self)["capabilities"] = self.selection.capabilities(type(self).capabilities)

    def problems(self, facts: RunFacts) -> list[Problem]:
        """Also: modality labels that are missing, and a task for inference that does not exist."""
        found = [*super().problems(facts), *self.regulariser.problems(facts, self.name)]
        chosen, names = self.config.inference, facts.stream.task_names
        if chosen not in ("first_k", "all", *names):
            fix = f"{nearest(chosen, ('first_k', 'all', *names))} Use first_k, all, or one of {', '.join(names)}.".strip()
            found.append(Problem("cl.method.inference", f"is {chosen!r}.", fix))
        return [*found, *self._selector_problems(facts)]

    def _selector_problems(self, facts: RunFacts) -> list[Problem]:
        """What does not go with a selector."""
        selector, where = self.selection.selector, "cl.method.selector"
        if selector is None:
            return []
        found = self.selection.problems(facts)
        if self.config.inference != "first_k":
            what = "chooses among the first k LoRAs, which `inference` fixes."
            found.append(Problem(where, what, "Leave `inference` out."))
        if "hidden" in selector.config.kinds and not selector.told:
            what = "`hidden` are features of the frozen base, and this method trains on the sum of the past LoRAs."
            found.append(Problem(f"{where}.features", what, "Use `vision` and `text`."))
        return found

    @property
    def penalised(self) -> bool:
        """Only with a weight that is not 0."""
        return self.regulariser.active

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """A fresh LoRA on the chain, and the regulariser's own parameters."""
        self.selection.begin(context)
        if (
            self.selection.by_sample
        ):  # what is handed over chooses among the tasks; all past LoRAs take part in the training
            model = super().restore(context.base, context.carry)
        model = super().begin_task(context, model)
        self.selection.check_places(context, self, model)
        self.regulariser.prepare(context, model, self._past(context))
        self.selection.prepare(context)
        return model

    def penalties(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The regulariser's terms, in the task's own training."""
        if context.phase:
            return {}
        return self.regulariser.terms(context, model, self._past(context))

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """What a selector measures; the past tensors are no longer needed."""
        self.regulariser.forget()
        return self.selection.statistics(context, model)

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """The learnable weights as they ended, and how many of the task's samples a selector gives to it."""
        learned = {name.removeprefix("log_"): math.exp(v) for name, v in self.regulariser.learned(model).items()}
        return learned | self.selection.numbers()

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """All LoRAs, and a selector's statistics."""
        super().consolidate(previous, update, writer)
        self.selection.consolidate(previous, update, writer)

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with the LoRAs that answer; with a selector it chooses how many for every sample."""
        if carry is None or not self.selection.by_sample:
            return super().restore(base, carry, route)
        base.reset()
        return self.selection.restore(base, carry, self.updates(carry), cumulative=True)

    def export(self, carry: Carry) -> Export:
        """The whole chain; with a selector the model that chooses."""
        return Routed() if self.selection.by_sample else super().export(carry)

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Also the modality, so that a later site can compare, and learned weights."""
        meta = super().describe(context, model)
        if context.task.modality:
            meta["modality"] = context.task.modality
        return {**meta, **self.regulariser.learned(model), **self.selection.describe(context)}

    def _past(self, context: TaskContext) -> list[TaskUpdate]:
        return self.updates(context.carry) if context.carry is not None else []

    def notes(self) -> list[str]:
        """How the questions were answered."""
        chosen = self.config.inference
        if self.selection.by_sample:
            return self.selection.note(self.title)
        if chosen == "all":
            return [
                "MSLoRA-CR, inference: all. Every question was answered with all LoRAs so far; no task was given at test."
            ]
        if chosen == "first_k":
            return [
                "MSLoRA-CR, inference: first_k. Task identity was given at test: the questions of task k were answered with "
                "the first k LoRAs, so that nothing is forgotten by construction. Do not compare the forgetting with that of "
                "methods that are not told the task."
            ]
        return [
            f"MSLoRA-CR, inference: {chosen}. Once task '{chosen}' was learned, every question was answered with the LoRAs up "
            "to it; what later tasks learned is not in the answers."
        ]

    @property
    def answers(self) -> Answers:
        """With `inference: all` one model answers everything; with a selector it chooses for every sample."""
        if self.selection.by_sample:
            return "by_sample"
        return "alike" if self.config.inference == "all" else "by_task"

    def route(self, carry: Carry | None, task: str) -> Route:
        """The number of LoRAs that answer; None for all there are."""
        if carry is None or self.config.inference == "all":
            return None
        names = [update.task for update in self.updates(carry)]
        wanted = task if self.config.inference == "first_k" else self.config.inference
        if wanted not in names[:-1]:  # not learned yet, or the latest: all of them, which may be in memory already
            return None
        return names.index(wanted) + 1

    def export_task(self, carry: Carry, task: str) -> Export | None:
        """The LoRAs that answer a task's questions, alone on the base; with `inference: all` the task's own, a part."""
        if self.answers == "alike":
            return super().export_task(carry, task)
        updates = self.updates(carry)
        if task not in [update.task for update in updates]:
            return None
        count = self.route(carry, task)
        return LowRankSum(tuple(updates if count is None else updates[: int(count)]))
