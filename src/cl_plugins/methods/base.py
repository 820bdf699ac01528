"""The method contract: the few questions that every continual-learning method answers.

A method never imports LLaMA-Factory. What it needs from the host (a fresh adapter, the base's tensors) is handed to
it as a `BaseModel`, by the runner or by a test.

Life of a task::

    model = method.restore(base, carry)            # the model that answers, rebuilt from what was written
    model = method.begin_task(context, model)      # what is trained
    ...training...
    state = method.end_task(context, model)        # tensors, written to tasks/<nn>_<task>/update.safetensors
    extra = method.statistics(context, model)      # Fisher, positions, ...: tasks/<nn>_<task>/<name>.safetensors
    method.consolidate(previous, update, writer)   # the next carry, written from files only
    model = method.restore(base, next_carry)       # and from here on, again
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from ..errors import Problem


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.carry import Carry, CarryWriter, TaskUpdate
    from ..adapters.update import LowRankUpdate
    from ..replay.memory import Memory
    from ..streams import Stream, Task


Schedule = Literal["sequential", "independent", "joint"]


@dataclass(frozen=True)
class NoOptions:
    """A method without options of its own."""


@dataclass(frozen=True)
class Capabilities:
    """What a method can do and needs. Checked before anything loads; the docs' tables are made from it.

    Attributes:
        finetuning_types: Allowed values of the host's ``finetuning_type``.
        schedule: ``sequential`` (each task starts from the carry), ``independent`` (each from the base) or ``joint``
            (all tasks at once).
        low_rank: Whether it adds low-rank updates; memory and disk are estimated by it.
        quantised: Quantisation methods of the base that are tested.
        zero_stages: DeepSpeed ZeRO stages that are tested.
        needs_modality: Every task must have a modality label.
        needs_replay: It draws from the replay buffer by itself: there must be one, and its samples are not mixed into
            the training set.
        needs: What else it asks for (the task at test, replay), in words; empty for nothing.
        carries: What is handed to the next task, in words.
        reveals: What the carry could tell about the training data, in words.
        step_cost: Cost of an optimizer step as the stream grows, in words.
        memory: Memory as the stream grows, in words.
    """

    finetuning_types: tuple[str, ...] = ("lora",)
    schedule: Schedule = "sequential"
    low_rank: bool = True
    quantised: tuple[str, ...] = ()
    zero_stages: tuple[int, ...] = ()
    needs_modality: bool = False
    needs_replay: bool = False
    needs: str = ""
    carries: str = ""
    reveals: str = "weights only, no training samples"
    step_cost: str = "as plain LoRA"
    memory: str = "as plain LoRA"


@dataclass(frozen=True)
class RunFacts:
    """What is known about a run before the model loads.

    Attributes:
        finetuning_type: The host's ``finetuning_type``.
        quantisation: ``None``, or the name of the quantisation (``bnb``, ``hqq``, ``gptq`` ...).
        zero_stage: DeepSpeed ZeRO stage, 0 without DeepSpeed.
        fsdp: Whether FSDP is asked for.
        half_precision: Whether the base is loaded in a 16-bit type.
        stream: The stream.
        keys: The host's keys as they stand in the recipe.
    """

    finetuning_type: str
    stream: Stream
    quantisation: str | None = None
    zero_stage: int = 0
    fsdp: bool = False
    half_precision: bool = False
    keys: Mapping[str, Any] = field(default_factory=dict)


class BaseModel(Protocol):
    """The base in memory, as a method sees it."""

    @property
    def model(self) -> Module:
        """The base without adapters; tensors may have been replaced, see `reset`."""

    @property
    def can_merge(self) -> bool:
        """Whether its weights are whole fp32 tensors that updates can be added to without visible rounding."""

    def reset(self) -> None:
        """Take off adapters and stacks, and put every replaced tensor back to the value in the checkpoint."""

    def original(self, name: str) -> Tensor:
        """Parameter ``name`` as it stands in the checkpoint: a CPU tensor, read lazily, not to be written to."""

    def replace(self, name: str, value: Tensor) -> None:
        """Set parameter ``name``; keeps the device, takes the dtype of ``value``."""

    def attach(self, updates: list[LowRankUpdate]) -> None:
        """Let the base compute itself plus low-rank updates, kept beside the weights as a frozen stack."""

    def new_adapter(self, seed: int | None = None) -> Module:
        """Put a fresh adapter on the base as the host would, drawing from a generator seeded with ``seed``."""

    def prepare_full(self) -> Module:
        """Mark as trainable what the host's ``finetuning_type: full`` marks."""


class TaskData(Protocol):
    """The training samples of a task as the trainer sees them, in the order of the data set."""

    def __len__(self) -> int:
        """Number of samples."""

    def batches(self, indices: Sequence[int], size: int = 1) -> Iterator[dict[str, Tensor]]:
        """Collated batches of ``size`` samples (the last one may be smaller) on the model's device.

        ``input_ids``, ``attention_mask`` and ``labels`` (-100 outside the answer), each (batch, length), and media.
        """


@dataclass(frozen=True)
class Batch:
    """One micro-batch after its forward.

    Attributes:
        inputs: What the model was called with, ``labels`` included.
        logits: (batch, length, vocabulary), with gradient, not shifted.
        step: Number of the optimizer step, from 1.
        micro: Number of the micro-batch within the step, from 0.
    """

    inputs: Mapping[str, Any]
    logits: Tensor
    step: int
    micro: int

    @property
    def labels(self) -> Tensor:
        """(batch, length), -100 outside the answer, not shifted."""
        return self.inputs["labels"]


@dataclass(frozen=True)
class TaskContext:
    """What a method gets when a task begins or ends.

    Attributes:
        task: The task; for a joint schedule the first one.
        index: Its number in the stream, from 1.
        seed: The seed that this task trains with.
        base: The base model.
        carry: What the earlier tasks left, None before the first.
        data: The training samples; None where they cannot be read at random (streaming).
        rank: Number of this process.
        world_size: Number of processes.
        memory: The replay buffer; None without replay. ``data`` holds the task's own samples only.
    """

    task: Task
    index: int
    seed: int
    base: BaseModel
    carry: Carry | None
    data: TaskData | None = None
    rank: int = 0
    world_size: int = 1
    memory: Memory | None = None


class Method(ABC):
    """Base class of all methods. Most override one or two answers.

    Attributes:
        name: Name in recipes and in the entry point.
        title: Name for people.
        config_class: Frozen dataclass of the options under ``cl.method``.
        capabilities: What it can do and needs.
        starts_at_zero: Whether its terms measure the way from where the task began, and so are zero at the first step.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: ClassVar[type[Any]] = NoOptions
    capabilities: ClassVar[Capabilities] = Capabilities()
    starts_at_zero: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def penalised(self) -> bool:
        """Whether `penalties` may return a term; what cannot add its gradient (ZeRO) is refused then."""
        return type(self).penalties is not Method.penalties

    @property
    def reads_logits(self) -> bool:
        """Whether `batch_terms` may return a term; what computes a loss without logits is refused then."""
        return type(self).batch_terms is not Method.batch_terms

    def notes(self) -> list[str]:
        """What a reader of the scores must know about how they came about; printed in every report."""
        return []

    def problems(self, facts: RunFacts) -> list[Problem]:
        """What speaks against this run, beyond the declared capabilities."""
        return []

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """Return the model to train. Default: a fresh adapter on the base.

        Args:
            context: The task.
            model: What `restore` gave.
        """
        return context.base.new_adapter(context.seed)

    def penalties(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """Named scalar terms that join the loss; called once per optimizer step, so worth the same in any batch layout."""
        return {}

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms of one micro-batch that join its loss; weighted among micro-batches as the loss is.

        Called after the forward and before the backward. ``model`` is not wrapped: forwards of the method's own (a
        teacher, a buffer) go through it.
        """
        return {}

    def end_task(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The tensors that this task has learned (default: the adapter, under PEFT's names)."""
        from ..adapters.update import adapter_state

        return adapter_state(model)

    def describe_update(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """JSON that is needed to use the tensors again (default: rank and scaling of the adapter)."""
        from ..adapters.update import adapter_meta

        return adapter_meta(model)

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """What else the next tasks need: name -> tensors; `TaskUpdate.statistic` gives the file to `consolidate`.

        What belongs to single samples of the replay buffer has names of its own, see `Memory.chosen`.
        """
        return {}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """Write the next carry from files alone (default: the update of this task and nothing else)."""
        writer.link(update.tensors, "adapter.safetensors")
        writer.meta["adapter"] = update.meta

    def route(self, carry: Carry | None, task: str) -> Hashable:
        """What, beside the carry, decides which model answers a task's questions; None (the default): nothing does.

        Models are rebuilt only when carry or route change.
        """
        return None

    def restore(self, base: BaseModel, carry: Carry | None, route: Hashable = None) -> Module:
        """Rebuild the model that answers from the base and a carry; the one code path for it.

        Args:
            base: The base.
            carry: What the tasks left so far, None before the first.
            route: None for the model that the next task starts from, else what `route` gave.
        """
        from ..adapters.update import load_adapter

        base.reset()
        if carry is None:
            return base.model
        model = base.new_adapter()
        load_adapter(model, carry.load("adapter.safetensors"), carry.meta["adapter"])
        return model

    def updates(self, carry: Carry) -> list[TaskUpdate]:
        """The low-rank updates whose sum on the base is the model, in order; for exports."""
        from ..adapters.carry import TaskUpdate

        return [TaskUpdate(carry.path / "adapter.safetensors", carry.meta["adapter"])]
