"""What a run loads once through its host, and the arguments of one task; see `cl_plugins.contract.host`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .base_model import BaseModel


if TYPE_CHECKING:
    from ..streams import Task
    from .backend import Answer, Backend
    from .task import TaskData
    from .test_item import TestItem, TestSet


def validates(training: Any) -> bool:
    """Whether a training measures the loss on a validation set.

    Args:
        training: Transformers' training arguments.
    """
    return str(getattr(training.eval_strategy, "value", training.eval_strategy)) != "no"


class TaskArgs(Protocol):
    """The host's arguments of one task; a run reads these fields and nothing else."""

    @property
    def training(self) -> Any:
        """`transformers.TrainingArguments` of the task."""

    @property
    def base_name(self) -> str:
        """Folder or hub name of the base."""

    @property
    def trust_remote_code(self) -> bool:
        """Whether the base may contain its own code."""

    @property
    def trained_modules(self) -> list[str]:
        """Names of the modules that are trained whole besides an adapter."""


class HostBase(BaseModel, Protocol):
    """The base as the host loads it, without adapters."""

    @property
    def quantised(self) -> bool:
        """Whether its weights are held in packed form."""

    @property
    def partitioned(self) -> bool:
        """Whether its weights are split over the ranks."""

    def lora(self) -> dict[str, Any]:
        """The LoRA that the recipe asks for, see `cl_plugins.records.carry.LoraPart`."""


class Rows(Protocol):
    """The samples that a task trained on, as the replay buffer may keep them; numbered as in `TaskContext.data`."""

    def __len__(self) -> int:
        """Number of samples."""

    def row(self, index: int) -> int:
        """Row of a sample in the task's data."""

    def answers(self, indices: Sequence[int]) -> list[str]:
        """The answers, as classes for `class_balanced`."""

    def origin(self, index: int) -> tuple[str, str]:
        """Id of a sample and name of its data set."""

    def record(self, index: int) -> dict[str, Any]:
        """What is stored of a sample: JSON, with its media as `replay.media.outside` gives them."""


class Session(Protocol):
    """What a run loads once: tokenizer or processor, and the base."""

    @property
    def base(self) -> HostBase:
        """The base, loaded at the first use."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""

    @property
    def loaded_model(self) -> Any:
        """The base's model if it has been loaded already, else None."""

    @property
    def sample_counts(self) -> Mapping[str, Mapping[str, int]]:
        """Task -> counts of records read, dropped and cut by `training_set`, for the journal."""

    def training_set(
        self, task: str, args: TaskArgs, *, with_rows: bool = False
    ) -> tuple[dict[str, Any], Rows | None]:
        """The training set of one task, prepared and checked.

        Args:
            task: Name of the task, for messages and ids.
            args: The task's arguments.
            with_rows: Also give the records behind the samples, for the replay buffer.

        Returns:
            The data arguments of `trainer` (``{"train_dataset": ...}``), and the rows if requested.

        Raises:
            DataError: If it is empty or cannot be used.
        """

    def stored_samples(
        self,
        task: str,
        args: TaskArgs,
        buffer: Any,
        *,
        keys: Mapping[str, Mapping[str, Any]] | None = None,
        like: Any = None,
    ) -> Any:
        """The samples of a replay buffer, each prepared as in the task that it comes from.

        Args:
            task: The task that is about to be trained.
            args: Its arguments.
            buffer: The `replay.store.Buffer`.
            keys: Task that samples come from -> its keys (`Host.sample_keys`); others follow ``args``.
            like: The task's own samples, whose columns these will be joined with.
        """

    def joined(self, own: Any, memory: Any, indices: Sequence[int]) -> Any:
        """A training set with memory samples behind the new ones; ``indices`` may repeat."""

    def joint_training_set(
        self, args: TaskArgs, parts: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]]
    ) -> dict[str, Any]:
        """The training sets of several tasks as one, each prepared with its task's own keys.

        Args:
            args: Arguments of the joint training.
            parts: Name, data sets and keys (`Host.data_keys`) of each task.

        Returns:
            As `training_set`.

        Raises:
            DataError: With every problem of every task.
        """

    def validation_set(self, args: TaskArgs, parts: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]]) -> Any:
        """The validation sets of one or more tasks as one data set, each prepared with its task's own keys.

        Args:
            args: Arguments of the training.
            parts: Name, data sets and keys (`Host.data_keys`) of each task.

        Raises:
            DataError: With every problem of every set.
        """

    def task_data(self, dataset: Any, args: TaskArgs) -> TaskData | None:
        """A training set for random access, collated with a task's arguments; None if the host streams it."""

    def test_items(
        self,
        task: Task,
        keys: Mapping[str, Any],
        max_items: int | None,
        *,
        for_engine: bool = False,
        drop_too_long: bool = False,
    ) -> TestSet:
        """The test items of a task.

        Args:
            task: The task.
            keys: The recipe's keys with the task's own.
            max_items: Keep at most this number of items, the first ones.
            for_engine: Also give `TestItem.engine_tokens`.
            drop_too_long: Leave out items whose prompt is too long, instead of refusing them.

        Raises:
            DataError: With every problem of the test sets.
        """

    def trainer(
        self,
        args: TaskArgs,
        model: Any,
        data: dict[str, Any],
        callbacks: Sequence[Any],
        terms: Any,
        task: str,
        recipe: str,
    ) -> Any:
        """The trainer of one task, a `transformers.Trainer` with `training.mixin.ContinualTrainerMixin`.

        Args:
            args: The task's arguments.
            model: What is trained.
            data: From `training_set`.
            callbacks: The user's and the run's.
            terms: The `training.terms.TaskTerms` that join the loss.
            task: Name of the task.
            recipe: What the training depends on, as one hash; its checkpoints keep it.
        """

    def backend(self, model: Any) -> Backend:
        """What answers test items with a model in memory (``cl.eval.backend: host``)."""

    def trained_items(self, dataset: Any, items: Sequence[TestItem]) -> dict[int, int]:
        """Which test items a training set contains: the same question about the same media, whatever the answer.

        Args:
            dataset: The ``train_dataset`` of `training_set`.
            items: Test items.

        Returns:
            Item -> the first sample that contains it, both as numbers.
        """

    def restored(self, tasks: Sequence[str]) -> None:
        """Told what the base's model knows after a method has restored it.

        Args:
            tasks: The tasks of the carry that it was restored from, in order; none without one.
        """

    def plot_loss(self, args: TaskArgs) -> None:
        """Draw the loss of a finished training into its folder, if the recipe requests it."""

    def save_model(self, model: Any, folder: Path, tensors: dict[str, Any] | None = None) -> None:
        """Save a plain model so that it opens without host and plugin.

        Args:
            model: The model.
            folder: An existing or new folder.
            tensors: Its whole tensors, where the model holds parts of them.
        """

    def save_processor(self, folder: Path) -> None:
        """Save tokenizer and processor next to the weights."""

    def quantisation(self) -> dict[str, Any] | None:
        """The quantisation config that the base was loaded with, as JSON; None for a plain base."""

    def eos_token_ids(self) -> list[int]:
        """Tokens that end an answer. Asked for by engines only (`Host.engines`)."""

    def engine_prompt(self, item: TestItem) -> dict[str, Any]:
        """A prompt as an engine takes it. Asked for by engines only.

        Raises:
            DataError: If the item holds something that engines are not given.
        """

    def read_answers(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """Answers of generated token ids, special tokens removed. Asked for by engines only."""
