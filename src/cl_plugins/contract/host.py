"""What a run asks of its host: the library that has the base model, the data and the trainer.

LLaMA-Factory is one implementation (`cl_plugins.host.llama_factory`). A run is given a `Host` and imports none. Three
objects follow each other: the `Host` answers questions about a recipe before anything is loaded; `Host.task_args` turns
keys into the arguments of one task; `Host.session` holds what is loaded once per run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .base_model import BaseModel


if TYPE_CHECKING:
    from ..base.errors import Problem
    from ..streams import Stream, Task
    from .backend import Answer, Backend
    from .capabilities import Capabilities, RunFacts
    from .method import Method
    from .task import TaskData
    from .test_item import TestItem, TestSet


KeyKind = Literal["per_task", "per_run", "refused"]


@dataclass(frozen=True)
class KeyInfo:
    """What is known about one key of the host.

    Attributes:
        key: The key as it stands in a recipe.
        kind: ``per_task`` (may stand in ``task_overrides``), ``per_run``, or ``refused`` together with ``cl``.
        reason: Why, in a few words.
        home: The dataclass of the host that holds it; empty if the installed version does not know the key.
    """

    key: str
    kind: KeyKind
    reason: str
    home: str = ""


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a base model and of what is trained in it, counted without its weights.

    Attributes:
        parameters: Parameters of the base.
        trainable: Parameters that are trained.
        parts: Kind of trained tensor (``LoRA``, a module's name, ``weights``) -> parameters.
        targets: Names of the modules that carry a LoRA, without their places.
        dtype: Dtype of the checkpoint according to its config, e.g. ``bfloat16``; empty if it does not say.
        image_tokens: Tokens per picture where the config fixes them; None for text models and where it depends on the
            picture.
        model_type: The config's ``model_type``.
    """

    parameters: int
    trainable: int
    parts: dict[str, int]
    targets: tuple[str, ...]
    dtype: str
    image_tokens: int | None
    model_type: str


def same_base(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two fingerprints (`Host.fingerprint`) are of the same base."""
    return bool(a.get("sha256") == b.get("sha256"))


def same_tokenizer(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two fingerprints (`Host.fingerprint`) are of tokenizers that give equal ids, as far as both are known."""
    ours, theirs = a.get("tokenizer"), b.get("tokenizer")
    return ours is None or theirs is None or ours == theirs


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
        """Whether the base may bring code of its own."""

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


class DataSet(Protocol):
    """One data set as a task uses it.

    Attributes:
        name: Its name in the stream.
        place: Where the task's keys say that it lies; the same name at the same place is the same data set.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def place(self) -> Hashable:
        """See the class."""

    def problems(self) -> list[Problem]:
        """What is wrong with its files and records, as far as can be seen without the base and its tokenizer."""

    def files(self) -> list[Path]:
        """Its local files; empty for data on a hub."""

    def samples(self) -> int | None:
        """Number of training samples, told from its files before anything loads; None where they do not tell.

        Samples that cannot be used still count. Only the display's estimate needs it.
        """

    def record(self, sha256: Callable[[Path], str]) -> dict[str, Any]:
        """What identifies its content, for ``run.json``.

        Args:
            sha256: Gives the hash of a file in hex.
        """


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
            The data arguments of `trainer` (``{"train_dataset": ...}``), and the rows if they were asked for.

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
            max_items: Keep the first so many items.
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

    def plot_loss(self, args: TaskArgs) -> None:
        """Draw the loss of a finished training into its folder, if the recipe asks for it."""

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


class Host(Protocol):
    """The library that a recipe is written for.

    Attributes:
        name: Its name, for messages.
        engines: Values of ``cl.eval.backend`` beside ``host`` that it can give prompts to.
        path_keys: Keys whose values are paths; ``~`` is expanded in them.
        engine_keys: Keys that choose a distributed engine; left out when a finished run is looked at.
        data_keys: Per-task keys that say which data a task has and how its samples are made.
        sample_keys: Those of them that a sample keeps when it is replayed in a later task.
    """

    name: str
    engines: tuple[str, ...]
    path_keys: frozenset[str]
    engine_keys: frozenset[str]
    data_keys: frozenset[str]
    sample_keys: frozenset[str]

    # --- the recipe

    def require(self) -> None:
        """Check that the installed version has what is built on.

        Raises:
            CompatibilityError: If it has not.
        """

    def key_table(self) -> list[KeyInfo]:
        """Every key of the installed version."""

    def key_info(self, key: str) -> KeyInfo:
        """What kind of key a key is."""

    def key_problems(self, raw: Mapping[str, Any]) -> list[Problem]:
        """What is wrong with the top level of a recipe: its keys, their values, the environment."""

    def override_problems(
        self, overrides: Mapping[str, Any], where: str, *, method_keys: Collection[str] = ()
    ) -> list[Problem]:
        """What is wrong with keys that are given for single tasks.

        Args:
            overrides: Task name -> mapping of keys.
            where: YAML path of ``overrides``.
            method_keys: Per-run keys that the method lets vary.
        """

    def facts(self, keys: Mapping[str, Any], stream: Stream) -> RunFacts:
        """The facts that methods are checked against."""

    def method_problems(self, name: str, able: Capabilities, facts: RunFacts, penalised: bool) -> list[Problem]:
        """What a method's declared capabilities rule out.

        Args:
            name: The method's name.
            able: Its capabilities.
            facts: The run.
            penalised: Whether it adds terms to the loss.
        """

    def data_set(self, name: str, keys: Mapping[str, Any], limit: int | None = None, *, test: bool = False) -> DataSet:
        """A data set as a task uses it.

        Args:
            name: Its name.
            keys: The recipe's keys with the task's own.
            limit: Only the first so many records are used; None for all.
            test: Whether it is a test set.
        """

    def base_problems(self, keys: Mapping[str, Any]) -> list[Problem]:
        """What the base's config says against the recipe's keys, weights not loaded; none where it cannot be had."""

    def sizes(self, keys: Mapping[str, Any], method: Method, task: Task) -> ModelSizes:
        """Count what a recipe would train, without weights: what the method makes trainable for its first task.

        Args:
            keys: The recipe's keys.
            method: The method.
            task: The first task.

        Raises:
            CompatibilityError: If the base's config cannot be had.
        """

    # --- one task

    def task_keys(
        self,
        keys: Mapping[str, Any],
        *,
        datasets: Sequence[str],
        output_dir: Path,
        seed: int,
        overrides: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The keys of one task: the recipe's, then the task's overrides, then what the run decides.

        Args:
            keys: The recipe without ``cl``.
            datasets: Training sets.
            output_dir: The task's own directory.
            seed: The task's seed.
            overrides: Per-task keys.
        """

    def task_args(self, keys: dict[str, Any]) -> TaskArgs:
        """Parse and check the keys of one task; seeds every generator with the task's seed.

        Raises:
            Exception: Whatever the host and its libraries raise for keys that they refuse.
        """

    def looking_keys(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """The keys for one process that looks at a finished run: without engine, on whatever device there is."""

    def newest_checkpoint(
        self, folder: Path, world_size: int, recipe: str
    ) -> tuple[Path | None, list[tuple[Path, str]]]:
        """The newest complete checkpoint of a task, and the newer ones that are not, with the reason.

        Args:
            folder: The task's directory.
            world_size: Number of ranks now.
            recipe: What the training depends on, as `trainer` was told.
        """

    # --- the run

    def fingerprint(self, args: TaskArgs) -> dict[str, Any]:
        """Which base this is, in a form that another machine can check: ``{"name", "sha256", "commit"}``.

        ``tokenizer``, where it is known, is one hash over the ids that its tokenizer gives.
        """

    def session(self, args: TaskArgs) -> Session:
        """What the run loads once.

        Args:
            args: The arguments of any task; only per-run keys are used.
        """
