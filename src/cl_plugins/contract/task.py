"""What a method gets: the task, its training samples, a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    from torch import Tensor

    from ..streams import Task
    from .base_model import BaseModel
    from .carry import Carry


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
        outputs: All that the model returned; None where a trainer does not say.
    """

    inputs: Mapping[str, Any]
    logits: Tensor
    step: int
    micro: int
    outputs: Any = None

    @property
    def labels(self) -> Tensor:
        """(batch, length), -100 outside the answer, not shifted."""
        return self.inputs["labels"]


class Chosen(Protocol):
    """A sample of the task in training that will go into the replay buffer."""

    @property
    def uid(self) -> str:
        """Its name in the buffer."""

    @property
    def index(self) -> int:
        """Its number in `TaskContext.data`."""


class Memory(Protocol):
    """The replay buffer while a task trains; see `cl_plugins.replay.memory.Memory`."""

    #: Once training is over: the samples of this task that will be kept. `Method.statistics` may store tensors for them, in
    #: a statistic called ``memory_<name>``, each named ``<uid>/<what>``; they stay as long as their sample and come back as
    #: ``tensors("memory_<name>")``.
    chosen: Sequence[Chosen]

    @property
    def samples(self) -> Sequence[Any]:
        """The samples of earlier tasks; each has a ``uid``, an ``id`` and a ``task``."""

    def __len__(self) -> int:
        """Number of samples of earlier tasks."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What the method stored with the samples, ``<uid>/<what>`` -> tensor; empty if nothing."""

    def draw(self, context: TaskContext, batch: Batch, purpose: str, at_least: int = 0) -> list[int]:
        """Numbers of the samples that go with a micro-batch; draws with another purpose are independent.

        ``at_least`` samples are drawn where the batch has fewer, none of them twice.
        """

    def batch(self, indices: Sequence[int]) -> Mapping[str, Any]:
        """Samples of earlier tasks as one collated batch."""


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
        phase: Name of the phase that is trained, see `cl_plugins.contract.phase.Phase`; empty for the first.
        encode: Token ids of a text, without special tokens; None where no tokenizer is known.
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
    phase: str = ""
    encode: Callable[[str], list[int]] | None = None


def certain(model: Any) -> bool:
    """Whether a model can give one answer only, as a classifier that knows one class.

    Its loss is 0 and nothing of what it answers can be forgotten, so that weights and terms that stay as they are show no
    fault. Models say it themselves, by an attribute of this name.

    Args:
        model: What is trained, not wrapped.
    """
    return bool(getattr(model, "certain", False))
