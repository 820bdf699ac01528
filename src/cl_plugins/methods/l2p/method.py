"""L2P: a pool of soft prompts with keys; each sample is given the prompts whose keys are nearest to its query.

``L = CE - pull * mean_b sum_{k in top} cos(q_b, K_k)`` (Wang et al., *Learning to Prompt for Continual Learning*, CVPR 2022).
Prompts and keys train, the model does not. No code of the authors of multimodal comparisons is public; the mapping to a
language model is an assumption, see the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...adapters.queries import kind_problems
from ...base.errors import Problem, RecipeError
from ...base.schema import option
from ...contract.capabilities import Capabilities, RunFacts
from ...contract.export import Export, Routed
from ...contract.method import Method, Route
from ...contract.task import Batch, TaskContext
from ..one_lora import ADAPTER
from ..same_options import check_same


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate


FREQUENCY, STATISTIC = "frequency.safetensors", "frequency"


@dataclass(frozen=True)
class L2PConfig:
    """Options of `L2P`."""

    pool_size: int = option(10, minimum=1, help="Prompts in the pool (M).")
    prompt_length: int = option(5, minimum=1, help="Vectors of a prompt (L).")
    top_k: int = option(5, minimum=1, help="Prompts of each sample.")
    pull: float = option(0.1, minimum=0, help="Weight of the term that pulls the chosen keys to the queries.")
    query: tuple[str, ...] = option(
        ("vision", "text"), help="What keys are compared with: `vision`, `text`, `hidden`, or a list of them."
    )
    initial: Literal["vocabulary", "uniform"] = option(
        "vocabulary", help="Prompts begin as embeddings of random tokens, or in U(-1, 1)."
    )
    key_rate: float = option(1.0, minimum=1e-6, help="Factor on the learning rate of the keys.")
    diversify: bool = option(
        False,
        help="Weigh distances in training by how often earlier tasks have chosen a prompt, so that others are used.",
    )
    task_prompts: bool = option(
        False, help="Task t trains the prompts from (t - 1) top_k to t top_k only; needs a pool for all tasks."
    )
    faithful: Literal["peer"] | None = option(
        None, help="`peer`: as l2p-pytorch; the prompts of most rows serve the whole batch, and begin in U(-1, 1)."
    )

    @property
    def uniform(self) -> bool:
        """Whether prompts begin in U(-1, 1)."""
        return self.initial == "uniform" or self.faithful == "peer"

    @property
    def batchwise(self) -> bool:
        """Whether a batch shares its prompts."""
        return self.faithful == "peer"

    def value_problems(self, where: str) -> list[Problem]:
        """Options that contradict each other."""
        found = kind_problems(self.query, f"{where}.query")
        if self.top_k > self.pool_size:
            what = f"is {self.top_k}, and the pool has {self.pool_size} prompts."
            found.append(Problem(f"{where}.top_k", what, "Use a larger `pool_size`."))
        if self.diversify and self.task_prompts:
            what = "does not go with `task_prompts`, which leaves nothing to choose."
            found.append(Problem(f"{where}.diversify", what, "Leave one of them out."))
        return found


class L2P(Method):
    """One pool of prompts for the whole stream."""

    name = "l2p"
    title = "L2P"
    config_class = L2PConfig
    capabilities = Capabilities(
        low_rank=False,
        quantised=("bnb",),
        answers="by_sample",
        rows_in_training=True,
        carries="a pool of prompts and their keys",
        step_cost="as plain LoRA without its layers, with `top_k` x `prompt_length` more tokens per sample",
        memory="below plain LoRA: the optimizer holds prompts and keys only",
    )

    def __init__(self, config: L2PConfig) -> None:
        super().__init__(config)
        self._pool: Any = None

    def problems(self, facts: RunFacts) -> list[Problem]:
        """A base whose positions cannot be widened, and a pool too small for all tasks."""
        from ...adapters.prompts import recipe_problems

        return [*recipe_problems(facts.keys), *self._size_problems(len(facts.stream.trained_names))]

    def _size_problems(self, tasks: int) -> list[Problem]:
        needed = tasks * self.config.top_k
        if not self.config.task_prompts or needed <= self.config.pool_size:
            return []
        what = f"is {self.config.pool_size}; with `task_prompts`, {tasks} tasks need {needed} prompts."
        return [Problem("cl.method.pool_size", what, f"Use {needed}, or a smaller `top_k`.")]

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """The carried pool continues to train; the first task starts a fresh one.

        Raises:
            RecipeError: If the pool has no prompts for this task.
        """
        if problems := self._size_problems(context.index if self.config.task_prompts else 0):
            raise RecipeError(problems)
        if context.carry is None:
            model = self._with_pool(context.base, context.seed)
        if self.config.task_prompts:
            count = self.config.top_k
            self._pool.own = range((context.index - 1) * count, context.index * count)
            self._pool.known = range(self._pool.own.start or count)
        return model

    def learning_rates(self, context: TaskContext, model: Module) -> dict[str, float]:
        """Keys may learn faster than prompts."""
        return {} if self.config.key_rate == 1 else {"cl_keys": self.config.key_rate}

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """The pull of the chosen keys."""
        return {"pull": -self.config.pull * self._pool.term()} if self.config.pull else {}

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Sizes of the pool, and what keys are compared with."""
        return self._meta()

    def _meta(self) -> dict[str, Any]:
        config = self.config
        sizes = {"pool_size": config.pool_size, "prompt_length": config.prompt_length, "top_k": config.top_k}
        return {**sizes, "query": list(config.query), "task_prompts": config.task_prompts}

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """With `diversify`, how often each prompt was chosen."""
        if not self.config.diversify:
            return {}
        counts = self._pool.counts(context.data, context.rank, context.world_size)
        if context.carry is not None:
            counts = counts + context.carry.load(FREQUENCY)["counts"]
        return {STATISTIC: {"counts": counts}}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The pool as this task left it and nothing else."""
        writer.link(update.tensors, ADAPTER)
        writer.meta["pool"] = update.meta
        if self.config.diversify:
            writer.link(update.statistic(STATISTIC), FREQUENCY)

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with the carried pool.

        Raises:
            RunStateError: If the carry has a pool of other sizes or another query.
        """
        from ...adapters.prompts import require_positions
        from ...adapters.update import fill

        base.reset()
        require_positions(base)
        if carry is None:
            return base.model
        check_same(carry.meta["pool"], self._meta())
        model = self._with_pool(base, None)
        fill(model, carry.load(ADAPTER))
        if self.config.task_prompts:
            self._pool.known = range(len(carry.tasks) * self.config.top_k)
        if self.config.diversify:
            counts = carry.load(FREQUENCY)["counts"].double()
            self._pool.frequency = counts / counts.sum().clamp(min=1)
        return model

    def export(self, carry: Carry) -> Export:
        """Prompts are chosen for every sample, so there is nothing to merge."""
        return Routed()

    def _with_pool(self, base: BaseModel, seed: int | None) -> Module:
        from .pool import Pool

        self._pool = Pool(base, self.config, seed)
        model: Module = self._pool.model
        return model
