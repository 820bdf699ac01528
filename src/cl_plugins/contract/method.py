"""The method contract: the few questions that every continual-learning method answers.

A method never imports LLaMA-Factory. What it needs from the host (a fresh adapter, the base's tensors) is passed to it
as a `BaseModel`, by a run, by a custom trainer or by a test. `cl_plugins.methods.one_lora.OneLoRA` and
`cl_plugins.methods.chain.LoRAChain` answer most questions for methods with one LoRA and with a LoRA per task.

Life of a task::

    model = method.restore(base, carry)            # the model that answers, rebuilt from what was written
    model = method.begin_task(context, model)      # what is trained
    ...training...
    tensors = method.learned(context, model)       # written to tasks/<nn>_<task>/update.safetensors
    meta = method.describe(context, model)         # written to update.json next to it
    extra = method.statistics(context, model)      # Fisher, positions, ...: tasks/<nn>_<task>/<name>.safetensors
    numbers = method.numbers(context, model)       # for journal and report
    ...further phases, see `Phase`...
    method.consolidate(previous, update, writer)   # the next carry, written from files only
    model = method.restore(base, next_carry)       # and from here on, again

Two guards hold for every method. Before the first step, every trainable tensor must be among what `learned` gives, or
the training is refused by name. After `BaseModel.reset`, modules, hooks, buffers and dtypes must be those at load.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.errors import CompatibilityError, Problem
from .capabilities import Answers, Capabilities, Family, NoOptions, RunFacts
from .phase import Phase


if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.nn import Module

    from .base_model import BaseModel
    from .carry import Carry, CarryWriter, TaskUpdate
    from .export import Export
    from .task import Batch, TaskContext


#: What decides, in addition to the carry, which model answers; see `Method.route`.
Route = int | str | None


class Method(ABC):
    """Base class of all methods.

    Attributes:
        name: Name in recipes and in the entry point.
        title: Name for people.
        config_class: Frozen dataclass of the options under ``cl.method``.
        capabilities: What it can do and needs.
        starts_at_zero: Whether its terms measure the distance from where the task began, and so are zero at the first
            step.
        ends_in_last_step: Whether `after_step` with ``last`` changes what remains of a task: the length of its training must then
            be known.
        lora_per_task: Whether every task has a LoRA that stays; lists of methods are grouped by it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: ClassVar[type[Any]] = NoOptions
    capabilities: ClassVar[Capabilities] = Capabilities()
    starts_at_zero: ClassVar[bool] = False
    ends_in_last_step: ClassVar[bool] = False
    lora_per_task: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def family(cls) -> Family:
        """The group of a method in lists, told from what it declares.

        ``full`` trains whole weights; ``prompts`` and ``routed`` choose for every sample, without and with low-rank updates;
        ``lora_per_task`` keeps a LoRA of every task; the others are ``one_lora``.
        """
        able = cls.capabilities
        if "lora" in able.finetuning_types and able.answers == "by_sample":
            return "routed" if able.low_rank else "prompts"
        if "lora" not in able.finetuning_types or not able.low_rank:
            return "full"
        return "lora_per_task" if cls.lora_per_task or able.schedule == "independent" else "one_lora"

    # What may run with me?

    @property
    def penalised(self) -> bool:
        """Whether `penalties` may return a term; what cannot add its gradient (ZeRO) is refused then."""
        return type(self).penalties is not Method.penalties

    @property
    def reads_logits(self) -> bool:
        """Whether `batch_terms` may return a term; what computes a loss without logits is refused then."""
        return type(self).batch_terms is not Method.batch_terms

    @property
    def answers(self) -> Answers:
        """`Capabilities.answers` for these options."""
        return self.capabilities.answers

    @property
    def follows_told(self) -> bool:
        """Whether a model that chooses per row follows `Rows.told`, a task that it is told (``cl.eval.oracle``)."""
        return False

    def notes(self) -> list[str]:
        """What a reader of the scores must know about how they came about; printed in every report."""
        return []

    def problems(self, facts: RunFacts) -> list[Problem]:
        """What speaks against this run, beyond the declared capabilities."""
        return []

    # What is trained?

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The trainings of a task, in order; the first one is the task's own."""
        return (Phase(),)

    @abstractmethod
    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """Return the model to train.

        Args:
            context: The task.
            model: What `restore` gave for the carry so far.
        """

    def begin_phase(self, context: TaskContext, phase: Phase, update: TaskUpdate) -> Module:
        """Return the model that a further phase of a task trains, rebuilt from what the phase before has written.

        Args:
            context: The task; ``context.data`` holds the phase's samples.
            phase: One of `phases`, not the first.
            update: What the task has learned so far.

        Raises:
            CompatibilityError: If the method has no further phases.
        """
        what = f"declares a phase '{phase.name}' and has no `begin_phase`."
        raise CompatibilityError(Problem(f"method '{self.name}'", what, "Report this to the authors of the method."))

    def phase_sample(self, context: TaskContext, task: str, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A training sample as a further phase with ``samples: kept`` trains on it (default: as it is).

        Args:
            context: The task and the phase, without ``data``.
            task: The task that the sample comes from.
            sample: The tokenised sample: ``input_ids``, ``attention_mask`` and ``labels`` as lists, and media. Not to be
                changed.
        """
        return sample

    def learning_rates(self, context: TaskContext, model: Module) -> Mapping[str, float]:
        """Ending of a parameter's name -> factor on the recipe's learning rate; the longest ending wins."""
        return {}

    # Which terms join the loss?

    def penalties(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """Named scalar terms on weights; called once per optimizer step, so worth the same in any batch layout."""
        return {}

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms of one micro-batch that join its loss; weighted among micro-batches as the loss is.

        Called after the forward and before the backward. ``model`` is not wrapped: forwards of the method's own (a
        teacher, a buffer) go through it.
        """
        return {}

    @property
    def trains_in_fp16(self) -> bool:
        """Whether fp16 is tested, for a method that leaves the scaled gradients alone; a subclass that does not is left out."""
        return self.capabilities.fp16 and not (self.penalised or self.changes_gradients)

    # What happens in an optimizer step?

    @property
    def changes_gradients(self) -> bool:
        """Whether `change_gradients` does something; trainers that cannot call it are refused then."""
        return type(self).change_gradients is not Method.change_gradients

    def change_gradients(self, context: TaskContext, model: Module, step: int) -> None:  # noqa: B027 - may be left as it is
        """Change the gradients of an optimizer step in place.

        Called once per step, when ``.grad`` of every parameter is complete (accumulated, averaged over processes, with
        the gradients of the penalties) and before it is clipped. All processes must end with the same gradients.

        Args:
            context: The task.
            model: What is trained, not wrapped.
            step: Number of the optimizer step, from 1.
        """

    def after_step(self, context: TaskContext, model: Module, *, last: bool) -> None:  # noqa: B027 - may be left as it is
        """Called after every optimizer step, before a checkpoint is written.

        State that the training changes besides its parameters belongs into buffers called ``cl_live_<name>``
        (`BaseModel.register`): checkpoints hold them.

        Args:
            context: The task.
            model: What is trained, not wrapped.
            last: Whether it was the last step of the training.
        """

    # What has the task learned?

    def learned(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The tensors that the task has learned, by the names they are saved under (default: all that is trainable).

        Called before the first step as well, to check that no trainable tensor is missing. Live tensors are fine: they
        are copied to the CPU afterwards.
        """
        from .names import trained_tensors

        return trained_tensors(model)

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """JSON that is needed to use the tensors again."""
        return {}

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """What else the next tasks need: name -> tensors; `TaskUpdate.statistic` gives the file to `consolidate`.

        What belongs to single samples of the replay buffer has names of its own, see `Memory.chosen`.
        """
        return {}

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """Learned or measured numbers that people want to see (a router's accuracy, frozen positions); finite.

        They appear in the journal and in the report. Called after `statistics`.
        """
        return {}

    # What is carried, and how does it answer?

    @abstractmethod
    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """Write the next carry, from files alone."""

    def route(self, carry: Carry | None, task: str) -> Route:
        """What, in addition to the carry, decides which model answers a task's questions.

        Called where `answers` is ``by_task``. Models are rebuilt only when carry or route change. None is the model that the next task starts from.
        """
        return None

    @abstractmethod
    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """Rebuild the model that answers from the base and a carry; the one code path for it.

        Args:
            base: The base; begin with `BaseModel.reset`.
            carry: What the tasks left so far, None before the first.
            route: None for the model that the next task starts from, else what `route` gave.
        """

    @abstractmethod
    def export(self, carry: Carry) -> Export:
        """What ``final/`` is: the sum of low-rank updates, whole weights, or a routed model.

        Asked right after the first consolidation, so that a wrong answer costs one task.
        """

    def export_task(self, carry: Carry, task: str) -> Export | None:
        """One task's part of the model as a separate model; None where tasks have no separate parts."""
        return None
