"""ModalPrompt: soft prompts for every task; each sample is given those of the tasks that its picture and text are like.

``L = CE + (1 - mean_b cos(v_b, P_t)) + (1 - mean_b cos(u_b, P_t))`` with the prototype ``P_t = mean_l g_t(e_tl)`` of the
task's prompts (Zeng et al., *ModalPrompt*, EMNLP 2025). The model is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...adapters.queries import kind_problems
from ...base.errors import Problem, RecipeError
from ...base.schema import option
from ...contract.capabilities import Capabilities, RunFacts
from ...contract.carry import read_tensors
from ...contract.export import Export, Routed
from ...contract.method import Method, Route
from ...contract.names import is_own, trainable
from ...contract.task import Batch, TaskContext
from ..one_lora import ADAPTER
from ..same_options import check_same


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate


FILE, STATISTIC = "prompts.safetensors", "prototype"


@dataclass(frozen=True)
class ModalPromptConfig:
    """Options of `ModalPrompt`."""

    prompt_length: int = option(10, minimum=1, help="Vectors of a task's prompt.")
    prompts: int = option(
        3,
        minimum=1,
        help="Prompts of each sample: the closest at test, the task's own and the closest earlier in training.",
    )
    image_weight: float = option(1.0, minimum=0, help="Weight of the term that guides the prototype to the pictures.")
    text_weight: float = option(1.0, minimum=0, help="Weight of the term that guides the prototype to the texts.")
    query: tuple[str, ...] = option(
        ("vision", "text"), help="What prototypes are compared with: `vision`, `text`, or both."
    )
    num_tasks: int | None = option(None, minimum=1, help="Tasks of the stream; needed with `faithful: peer` only.")
    faithful: Literal["peer"] | None = option(
        None,
        help="`peer`: the prompts of the last task stay as they begin, as in the authors' code; needs `num_tasks`.",
    )

    def value_problems(self, where: str) -> list[Problem]:
        """Options that contradict each other."""
        found = kind_problems(self.query, f"{where}.query")
        if "hidden" in self.query:
            what = "names `hidden`; prototypes are compared with pictures and texts."
            found.append(Problem(f"{where}.query", what, "Use `vision`, `text`, or both."))
        if not any(self.weight(kind) for kind in self.query):
            what = "is 0 for everything that prototypes are compared with, so that they would not be learned."
            found.append(Problem(f"{where}.text_weight", what, "Use a positive weight."))
        if self.faithful == "peer" and self.num_tasks is None:
            what = "is 'peer', which needs the number of tasks."
            found.append(Problem(f"{where}.faithful", what, "Add `num_tasks`."))
        return found

    def weight(self, kind: str) -> float:
        """Weight of the term of a kind of features."""
        return self.image_weight if kind == "vision" else self.text_weight


class ModalPrompt(Method):
    """Prompts per task, chosen by picture and text."""

    name = "modalprompt"
    title = "ModalPrompt"
    config_class = ModalPromptConfig
    capabilities = Capabilities(
        low_rank=False,
        quantised=("bnb",),
        answers="by_sample",
        rows_in_training=True,
        grows=True,
        carries="the prompts of every task and a vector that tells what its samples are like",
        reveals="prompts, and one vector per task near the mean features of its pictures and texts; no training samples",
        step_cost="as plain LoRA without its layers, with `prompts` x `prompt_length` more tokens per sample",
        memory="below plain LoRA: the optimizer holds the prompts of one task and its head",
    )

    def __init__(self, config: ModalPromptConfig) -> None:
        super().__init__(config)
        self._prompts: Any = None

    @property
    def follows_told(self) -> bool:
        """Prompts are those of the task that is told."""
        return True

    def problems(self, facts: RunFacts) -> list[Problem]:
        """A base whose positions cannot be widened, and another number of tasks than the stream has."""
        from ...adapters.prompts import recipe_problems

        found = recipe_problems(facts.keys)
        given, there = self.config.num_tasks, len(facts.stream.trained_names)
        if given is not None and given != there:
            what = f"is {given}; the stream trains {there} tasks."
            found.append(Problem("cl.method.num_tasks", what, f"Write {there}."))
        return found

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """Fresh prompts next to the frozen ones of earlier tasks.

        Raises:
            RecipeError: If the weight of everything that this base can be compared with is 0.
        """
        last = self.config.faithful == "peer" and context.index == self.config.num_tasks
        context.base.reset()
        model = self._build(context.base, context.carry, context.task.name, context.seed, frozen=last)
        if not any(self.config.weight(kind) for kind in self._prompts.queries.widths):
            what = "is 0, and this base has no pictures to compare with."
            raise RecipeError(Problem("cl.method.text_weight", what, "Use a positive weight."))
        return model

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """The terms that guide the task's prototype."""
        terms = {kind: self.config.weight(kind) * term for kind, term in self._prompts.terms().items()}
        return {f"guide_{kind}": term for kind, term in terms.items() if self.config.weight(kind)}

    def learned(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """All that is trainable, and the prompts also where they are frozen."""
        from .prompts import PROMPTS

        return {**super().learned(context, model), PROMPTS: getattr(self._prompts.model, PROMPTS)}

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Length of the prompts, and what prototypes are compared with."""
        return self._meta()

    def _meta(self) -> dict[str, Any]:
        return {"prompt_length": self.config.prompt_length, "query": list(self.config.query)}

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """The prototype of the task's prompts; it is all that later tasks need of its head."""
        return {STATISTIC: {STATISTIC: self._prompts.own_prototype().detach().cpu()}}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """Prompts and prototypes of all tasks, and what else the task has trained."""
        import torch

        from .prompts import PROMPTS

        tensors = update.load()
        own = {"prompts": tensors[PROMPTS], "prototypes": read_tensors(update.statistic(STATISTIC))[STATISTIC]}
        before = previous.load(FILE) if previous is not None else {}
        stacked = {name: torch.cat([*([before[name]] if before else []), value[None]]) for name, value in own.items()}
        writer.write(FILE, stacked)
        rest = {name: value for name, value in tensors.items() if not is_own(name)}
        if rest:
            writer.write(ADAPTER, rest)
        writer.meta["prompts"] = update.meta

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with the prompts of all tasks.

        Raises:
            RunStateError: If the carry has prompts of another length or another query.
        """
        from ...adapters.prompts import require_positions

        base.reset()
        require_positions(base)
        return base.model if carry is None else self._build(base, carry, None)

    def export(self, carry: Carry) -> Export:
        """Prompts are chosen for every sample, so there is nothing to merge."""
        return Routed()

    def _build(
        self, base: BaseModel, carry: Carry | None, task: str | None, seed: int = 0, *, frozen: bool = False
    ) -> Module:
        from ...adapters.update import fill
        from .prompts import Learned, TaskPrompts

        past = None
        if carry is not None:
            check_same(carry.meta["prompts"], self._meta())
            tensors = carry.load(FILE)
            past = Learned(carry.tasks, tensors["prompts"], tensors["prototypes"])
        self._prompts = TaskPrompts(base, self.config, past, task, seed, frozen=frozen)
        model: Module = self._prompts.model
        if carry is not None:
            own = {name: value for name, value in trainable(model).items() if is_own(name)}
            fill(model, {**own, **(carry.load(ADAPTER) if ADAPTER in carry.files else {})})
        return model
