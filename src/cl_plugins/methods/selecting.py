"""What methods with a part per task do with ``selector``: answer without being told the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError, RunStateError
from ..base.schema import option
from ..contract.capabilities import Capabilities, RunFacts
from ..contract.carry import read_tensors
from ..contract.low_rank import LowRankUpdate
from ..contract.method import Method
from ..contract.phase import Phase
from ..selectors import Selector, TrainedSelector, make_selector


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.row_features import Rows
    from ..adapters.rows import RowState
    from ..contract.base_model import BaseModel
    from ..contract.carry import Carry, CarryWriter, TaskUpdate
    from ..contract.task import Batch, TaskContext


FILE, STATISTIC, ROUTER = "selector.safetensors", "selector", "router.safetensors"
EXPERT = "expert"  # what a trained selector has to know of a task, in the task's meta


@dataclass(frozen=True)
class SelectingConfig:
    """The option of every method whose tasks have parts of their own."""

    selector: dict[str, Any] | None = option(
        None,
        help="Who chooses a task's part at test: `{kind: prototype, features: [vision, text]}`, `{kind: ridge}`, `{kind: keys}`, "
        "`{kind: mllm}` (a router LoRA, trained on kept samples), or `{kind: oracle}` (the task is given).",
    )

    def value_problems(self, where: str) -> list[Problem]:
        """What is wrong with the selector's own options."""
        if self.selector is None:
            return []
        try:
            make_selector(self.selector, f"{where}.selector")
        except RecipeError as error:
            return error.problems
        return []


class SelectorTerms:
    """Put before `Method`: follows a selector, and lets one that trains do so with every task.

    The method has a ``selection``, and calls its `Selection.prepare` (or `Selection.put_keys`) in ``begin_task``.
    """

    selection: Selection

    @property
    def follows_told(self) -> bool:
        """Whenever a selector finds out the task."""
        return self.selection.by_sample

    @property
    def reads_logits(self) -> bool:
        """Only with a selector that trains: its term joins the loss of a batch."""
        return self.selection.trains

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """The selector's term, if it trains."""
        return self.selection.terms()

    def learning_rates(self, context: TaskContext, model: Module) -> dict[str, float]:
        """Those of what the selector trains."""
        return self.selection.learning_rates()


class Selection:
    """The selector of a method, over the life of a task.

    Args:
        given: ``cl.method.selector``.
        routers: Whether the method is a `Selecting`, which can carry a router LoRA.
        continues: Whether modules that train as a whole (``additional_target``) go on training from task to task; the base
            is then not the same for all tasks.
    """

    def __init__(self, given: dict[str, Any] | None, *, routers: bool = False, continues: bool = False) -> None:
        self._routers, self._continues = routers, continues
        self.selector: Selector | None = None if given is None else make_selector(given)
        self._trained = self.selector if isinstance(self.selector, TrainedSelector) else None
        self._accuracy: dict[str, float] = {}
        self._training: Any = None
        self._made: tuple[tuple[str, int], dict[str, Tensor]] | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The trainings of a task."""
        return (Phase(),) if self._trained is None else (Phase(), self._trained.phase)

    @property
    def trains(self) -> bool:
        """Whether the selector has tensors that train with a task, by a term of their own."""
        return self.selector is not None and self.selector.trains

    @property
    def by_sample(self) -> bool:
        """Whether the model finds out the task by itself."""
        return self.selector is not None and not self.selector.told

    def capabilities(self, able: Capabilities) -> Capabilities:
        """What a method with a part per task can do with this selector."""
        if self.selector is None:
            return able
        words = f"the LoRA and the projector of every task, and the statistics of the selector '{self.selector.kind}'"
        if self._trained is not None:
            words = (
                "the LoRA and the projector of every task, the router's, and the replay buffer that it is trained on"
            )
        return replace(
            able,
            schedule="sequential",
            answers="by_sample" if self.by_sample else "by_task",
            grows=True,
            zero_stages=(),
            rows_in_training=able.rows_in_training or self.trains,
            needs_replay=self._trained is not None,
            memory_forward=self._trained is None,
            carries=words,
            reveals=f"weights, and {self.selector.reveals}" + ("" if self._trained else "; no training samples"),
        )

    def note(self, title: str) -> list[str]:
        """How the questions were answered, for reports."""
        if self.selector is None:
            return []
        if self.selector.told:
            return [f"{title}, selector: oracle. Task identity was given at test."]
        features = ", ".join(self.selector.config.kinds)
        return [
            f"{title}, selector: {self.selector.kind}{' on ' if features else ''}{features}. No task was given at test; which task's part answered "
            "stands in every prediction (`route`)."
        ]

    def problems(self, facts: RunFacts) -> list[Problem]:
        """What speaks against this run, before anything loads."""
        if self.selector is None:
            return []
        where = "cl.method.selector"
        own = [] if self._trained is None else self._trained.stream_problems(facts.stream, where)
        if self._trained is not None and not self._routers:
            what = f"is '{self._trained.kind}', which trains a router LoRA to name one part; this method has none to name."
            own.append(Problem(f"{where}.kind", what, "Use another selector, or the method `mr_lora`."))
        kinds = () if self.selector.told else self.selector.config.kinds
        if self._continues and "hidden" in kinds and facts.keys.get("additional_target"):
            what = (
                "`hidden` are features of the frozen base, and `additional_target` goes on training from task to task."
            )
            own.append(Problem(f"{where}.features", what, "Use `vision` and `text`."))
        return [*self.selector.problems(where, facts.keys), *own]

    def begin(self, context: TaskContext) -> None:
        """Check a sample before the training, on a base without this task's adapter."""
        from ..selectors.collect import check_features

        self._accuracy = {}
        if self._trained is not None:
            self._trained.prompt(context, self._experts(context))
        elif self.selector is not None:
            self.selector.identity()  # loads what the features come from
            check_features(self.selector, context)

    def prepare(self, context: TaskContext) -> None:
        """Put what the selector trains on the model; it then looks at every forward of the base."""
        self.put_keys(context)
        if self._training is not None:
            state = context.base.rows(lambda rows: self.see(state, rows))

    def put_keys(self, context: TaskContext) -> None:
        """`prepare` for methods whose models have a row state, which must call `see`."""
        self._training = self.selector.training(context) if self.selector is not None and self.trains else None

    def see(self, state: RowState, rows: Rows) -> None:
        """Look at the prompts of a batch in training."""
        if self._training is not None:
            self._training.see(state, rows)

    def terms(self) -> dict[str, Tensor]:
        """The selector's term of the batch that was seen last."""
        return self._training.terms() if self._training is not None else {}

    def learning_rates(self) -> dict[str, float]:
        """Factors on the learning rate of what the selector trains."""
        return self._training.learning_rates() if self._training is not None else {}

    def check_places(self, context: TaskContext, method: Method, model: Module) -> None:
        """Before the first step: nothing trains where the features come from.

        Args:
            context: The task.
            method: The method.
            model: What is about to be trained.

        Raises:
            CompatibilityError: If something does.
        """
        from ..selectors.router import check_places, check_rows, check_versions

        if self.by_sample:
            update = LowRankUpdate.from_state(method.learned(context, model), method.describe(context, model))
            check_places(context.base, [*update.a, *update.replaced])
            if not self._continues:
                check_rows(context.base, list(update.a))
                check_versions(context.base, list(update.replaced))

    def begin_phase(self, context: TaskContext) -> Module:
        """The base with a fresh router."""
        context.base.reset()
        return context.base.new_adapter(context.seed)

    def phase_sample(self, context: TaskContext, task: str, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """The router's training sample.

        Raises:
            RunStateError: If a kept sample is of a task that has no expert.
        """
        names = [*(context.carry.tasks if context.carry is not None else ()), context.task.name]
        if self._trained is None or task not in names:
            what = f"holds a sample of task '{task}', which no expert has learned."
            raise RunStateError(Problem("replay buffer", what, "Delete it with `cl-plugins replay delete`."))
        return self._trained.sample(self._prompt(context), names.index(task), sample)

    def describe(self, context: TaskContext) -> dict[str, Any]:
        """What a trained selector has to know of the task."""
        return {} if self._trained is None or context.phase else {EXPERT: self._experts(context)[-1]}

    def _experts(self, context: TaskContext) -> list[dict[str, Any]]:
        """The experts of the carry and of this task."""
        if self._trained is None:
            return []
        known = [record["meta"][EXPERT] for record in context.carry.meta["updates"]] if context.carry else []
        return [*known, self._trained.expert(context, known)]

    def _prompt(self, context: TaskContext) -> dict[str, Tensor]:
        """The trained selector's prompt for this task, made once."""
        if self._trained is None:
            return {}
        key = (context.task.name, context.index)
        if self._made is None or self._made[0] != key:
            self._made = (key, self._trained.prompt(context, self._experts(context)))
        return self._made[1]

    def statistics(self, context: TaskContext, model: Module | None = None) -> dict[str, dict[str, Tensor]]:
        """What the selector has learned or measures on the task that was trained."""
        from ..selectors.collect import accuracy, measure, sample

        if self.selector is None or self.selector.told:
            return {}
        if self._trained is not None:
            if not context.phase or model is None:
                return {}
            prompt = self._prompt(context)
            self._accuracy = {"router_accuracy": self._trained.accuracy(prompt, context, model)}
            return {STATISTIC: prompt}
        if self._training is not None:
            own, vectors = self._training.learned(), sample(self.selector, context)
        else:
            own, vectors = measure(self.selector, context)
        carried = self.selector.merge(self._carried(context.carry), own)
        if len(vectors):
            known = 1 if context.carry is None else None
            self._accuracy = {"selected_training_samples": accuracy(self.selector, carried, vectors, known)}
        return {STATISTIC: own}

    def numbers(self) -> dict[str, float]:
        """Percentage of the task's own training samples that the selector gives to it; of all kept ones for a router."""
        return dict(self._accuracy)

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """Add the task's statistics to what is carried."""
        if self.selector is None:
            return
        writer.meta["selector"] = self.selector.identity()
        if self._trained is not None:
            if previous is not None:  # one expert needs no router
                writer.link(update.statistic(STATISTIC), FILE)
                writer.link(update.phase(self._trained.phase.name), ROUTER)
        elif not self.selector.told:
            own = read_tensors(update.statistic(STATISTIC))
            writer.write(FILE, self.selector.merge(self._carried(previous), own))

    def restore(
        self, base: BaseModel, carry: Carry, updates: Sequence[TaskUpdate], *, cumulative: bool = False
    ) -> Module:
        """The base with every task's part and the selector among them.

        Args:
            base: The base, without adapters.
            carry: The carry.
            updates: One update per task, in order.
            cumulative: Whether a task is answered by its own part and those before it.
        """
        from ..selectors.router import Learned, put_on

        selector, carried = self.carried(carry)
        tasks = [Learned(update.task, update.low_rank()) for update in updates]
        router = None
        if self._trained is not None and len(tasks) > 1:
            router = LowRankUpdate.from_state(carry.load(ROUTER), updates[-1].meta)
        return put_on(base, tasks, selector, carried, cumulative=cumulative, router=router)

    def chooser(self, carry: Carry, names: Sequence[str]) -> Callable[[RowState, Rows], None]:
        """What gives each prompt its task, see `cl_plugins.selectors.router.choose`.

        Args:
            carry: The carry.
            names: The tasks in the order in which they were learned.
        """
        from ..selectors.router import choose

        selector, carried = self.carried(carry)
        prepared = selector.prepare(carried)
        return lambda state, rows: choose(state, rows, selector, prepared, names)

    def carried(self, carry: Carry) -> tuple[Selector, dict[str, Tensor]]:
        """The selector and what it has carried.

        Raises:
            RunStateError: If the carry holds none, another selector's, or one of other features.
        """
        carried = self._carried(carry)
        if self.selector is None or carried is None:
            raise RunStateError(
                Problem("carry", "holds no selector.", "Train with `cl.method.selector` from task 1 on.")
            )
        return self.selector, carried

    def _carried(self, carry: Carry | None) -> dict[str, Tensor] | None:
        """The selector's statistics in a carry.

        Raises:
            RunStateError: If they are another selector's, or of other features.
        """
        if carry is None or self.selector is None:
            return None
        there = carry.meta.get("selector")
        ours = self.selector.identity()
        if there != ours:
            what = f"was made with the selector {there}; this recipe's is {ours}."
            fix = "Use the selector it was made with, or train from the first task on."
            raise RunStateError(Problem("carry", what, fix))
        if self._trained is not None and len(carry.tasks) < 2:
            return {}
        return carry.load(FILE)


class Selecting(SelectorTerms):
    """A method with a part per task, one of which a `Selection` chooses.

    Attributes:
        selection: The selection.
    """

    selection: Selection

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The task's own training, and that of a selector that learns."""
        return self.selection.phases

    def begin_phase(self, context: TaskContext, phase: Phase, update: TaskUpdate) -> Module:
        """The base with what the selector trains."""
        return self.selection.begin_phase(context)

    def phase_sample(self, context: TaskContext, task: str, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A kept sample as the selector trains on it."""
        return self.selection.phase_sample(context, task, sample)
