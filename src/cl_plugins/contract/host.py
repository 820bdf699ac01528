"""What a run asks of its host: the library that has the base model, the data and the trainer.

LLaMA-Factory is one implementation (`cl_plugins.host.llama_factory`). A run is given a `Host` and imports none. Three
objects follow each other: the `Host` answers questions about a recipe before anything is loaded; `Host.task_args` turns
keys into the arguments of one task; `Host.session` holds what is loaded once per run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol


if TYPE_CHECKING:
    from ..base.errors import Problem
    from ..base.words import Words
    from ..streams import Stream, Task
    from .capabilities import Capabilities, RunFacts
    from .method import Method
    from .session import Session, TaskArgs


KeyKind = Literal["per_task", "per_run", "refused"]
ENCODERS = "encoders"
_ENCODERS_NAME = "encoders "

#: A saved chat template that gives other prompts than the run has asked with says so in a comment, which begins like this.
CHAT_DIFFERENCES = "cl_plugins: other token ids than the prompts of the run for "


def has_encoders(keys: Mapping[str, Any]) -> bool:
    """Whether a recipe, or the keys of a run, name encoders in place of a language model."""
    return ENCODERS in keys


#: The key that says that a script has made a run, and no recipe.
LEARNER = "learner"


def has_learner(keys: Mapping[str, Any]) -> bool:
    """Whether the keys of a run are those of a script with a `ContinualLearner`."""
    return LEARNER in keys


def encoders_name(models: Mapping[str, str]) -> str:
    """The name of a base that consists of encoders.

    Args:
        models: Modality -> name of its encoder, without places of this machine.
    """
    return _ENCODERS_NAME + ", ".join(f"{name}={model}" for name, model in sorted(models.items()))


def names_encoders(base: str) -> bool:
    """Whether the name of a base is one that `encoders_name` has made, and no folder or name on a hub."""
    return base.startswith(_ENCODERS_NAME)


@dataclass(frozen=True)
class KeyInfo:
    """What is known about one key of the host.

    Attributes:
        key: The key as written in a recipe.
        kind: ``per_task`` (allowed in ``task_overrides``), ``per_run``, or ``refused`` together with ``cl``.
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


@dataclass(frozen=True)
class Trained:
    """What a recipe trains, told without weights.

    Attributes:
        shapes: Name under which a tensor is saved -> its shape.
        meta: Task -> what the method says of its update (`Method.describe`).
    """

    shapes: dict[str, tuple[int, ...]]
    meta: dict[str, dict[str, Any]]


def keys_to_look(keys: Mapping[str, Any], engine_keys: frozenset[str]) -> dict[str, Any]:
    """The keys of a recipe without engine; half precision without an accelerator needs Transformers' ``use_cpu``.

    Args:
        keys: The recipe's keys.
        engine_keys: From `Host.engine_keys`.
    """
    import torch

    found = {key: value for key, value in keys.items() if key not in engine_keys}
    if not torch.cuda.is_available() and found.get("bf16"):
        found["use_cpu"] = True
    return found


def same_base(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two fingerprints (`Host.fingerprint`) are of the same base."""
    return bool(a.get("sha256") == b.get("sha256"))


def same_tokenizer(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two fingerprints (`Host.fingerprint`) are of tokenizers that give equal ids, as far as both are known."""
    ours, theirs = a.get("tokenizer"), b.get("tokenizer")
    return ours is None or theirs is None or ours == theirs


def settings_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what two fingerprints (`Host.fingerprint`) differ apart from weights and ids, for a message.

    Args:
        a: One fingerprint.
        b: The other one.

    Returns:
        Such as ``special_tokens.eos_token ('</s>' there, '.' here)``; of entries that both have.
    """
    ours, theirs = a.get("settings"), b.get("settings")
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return []
    found = []
    for group in sorted(ours.keys() & theirs.keys()):
        one, other = ours[group], theirs[group]
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            found += [group] if one != other else []
            continue
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                found.append(f"{group}.{name} ({one.get(name)!r} there, {other.get(name)!r} here)")
    return found


class DataSet(Protocol):
    """One data set as a task uses it.

    Attributes:
        name: Its name in the stream.
        place: Its location according to the task's keys; the same name at the same place is the same data set.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def place(self) -> Hashable:
        """See the class."""

    def problems(self) -> list[Problem]:
        """What is wrong with its files and records, as far as can be seen without the base and its tokenizer."""

    def absent(self) -> list[Problem]:
        """Those of `problems` that say that its files are not there, or not yet."""

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


class Host(Protocol):
    """The library that a recipe is written for.

    Attributes:
        name: Its name, for messages.
        engines: Values of ``cl.eval.backend`` other than ``host`` that it can give prompts to.
        path_keys: Keys whose values are paths; ``~`` is expanded in them.
        command: The ordinary launch command of a recipe.
        engine_keys: Keys that choose a distributed engine; left out when a finished run is inspected.
        data_keys: Per-task keys that say which data a task has and how its samples are made.
        sample_keys: Those of them that a sample keeps when it is replayed in a later task.
        validation_keys: Per-task keys that mean something for tasks with a validation set only.
        prompt_keys: Keys that shape prompts, pictures and the base in memory; ``final/`` notes them.
        reader: What reads the data, for messages.
        generates: Whether an answer is generated text; else it is one of the classes that were learned.
        words: What messages call the things that its users can change.
    """

    name: str
    engines: tuple[str, ...]
    command: str
    path_keys: frozenset[str]
    engine_keys: frozenset[str]
    data_keys: frozenset[str]
    sample_keys: frozenset[str]
    validation_keys: frozenset[str]
    prompt_keys: frozenset[str]
    reader: str
    generates: bool
    words: Words

    def quiet(self) -> AbstractContextManager[None]:
        """Show only errors of the host inside, unless the user requested more."""

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

    def override_problems(self, overrides: Mapping[str, Any], where: str) -> list[Problem]:
        """What is wrong with keys that are given for single tasks.

        Args:
            overrides: Task name -> mapping of keys.
            where: YAML path of ``overrides``.
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
            limit: Only the first records up to this number are used; None for all.
            test: Whether it is a test set.
        """

    def validates(self, keys: Mapping[str, Any]) -> bool:
        """Whether the keys of a task ask for the loss on its validation set while it trains."""

    def chooses_weights(self, keys: Mapping[str, Any]) -> bool:
        """Whether this loss decides when a task ends, or which of its weights remain."""

    def validation_problems(self, keys: Mapping[str, Any], where: str) -> list[Problem]:
        """What is wrong with the keys of a task that concern its validation set.

        Args:
            keys: All keys of the task.
            where: What stands in front of a key in the messages.
        """

    def base_problems(self, keys: Mapping[str, Any]) -> list[Problem]:
        """What the base's config says against the recipe's keys, weights not loaded; none where it cannot be had."""

    def sets_problems(
        self, trained: Mapping[str, Sequence[DataSet]], tested: Mapping[str, Sequence[DataSet]], *, whole: bool
    ) -> list[Problem]:
        """What the data sets of a run say against each other; each is checked by `DataSet.problems`.

        Args:
            trained: Task -> its training sets.
            tested: Task or probe -> its test sets.
            whole: Whether these are all tasks that the model learns; else others are elsewhere.
        """

    def sizes(self, keys: Mapping[str, Any], method: Method, task: Task) -> ModelSizes:
        """Count what a recipe would train, without weights: what the method makes trainable for its first task.

        Args:
            keys: The recipe's keys.
            method: The method.
            task: The first task.

        Raises:
            CompatibilityError: If the base's config cannot be had.
        """

    def trained(self, keys: Mapping[str, Any], method: Method, tasks: Sequence[Task]) -> Trained:
        """What a recipe would train on its base, with the names and shapes that its updates have.

        Args:
            keys: The recipe's keys.
            method: The method.
            tasks: The tasks; the first one begins.

        Raises:
            CompatibilityError: If the base's config cannot be had, or the host cannot tell.
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
        valid: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The keys of one task: the recipe's, then the task's overrides, then what the run decides.

        Args:
            keys: The recipe without ``cl``.
            datasets: Training sets.
            output_dir: The task's own directory.
            seed: The task's seed.
            overrides: Per-task keys.
            valid: Validation sets. Without one, keys that need it do not apply.
        """

    def task_args(self, keys: dict[str, Any]) -> TaskArgs:
        """Parse and check the keys of one task; seeds every generator with the task's seed.

        Raises:
            Exception: Any exception of the host and its libraries for keys that they refuse.
        """

    def trackers(self, args: TaskArgs) -> dict[str, dict[str, Any]]:
        """Experiment trackers of a run: name as in ``report_to`` -> options that other keys give it."""

    def looking_keys(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """The keys for one process that inspects a finished run: without engine, on the available device."""

    # --- the run

    def fingerprint(self, args: TaskArgs) -> dict[str, Any]:
        """Which base this is, in a form that another machine can check: ``{"name", "sha256", "commit"}``.

        ``tokenizer``, where it is known, is one hash over the ids that its tokenizer gives, and ``settings`` has what
        else decides an answer (special tokens, rules of generation), by group and name.
        """

    def session(
        self, args: TaskArgs, trainings: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]] = ()
    ) -> Session:
        """What the run loads once.

        Args:
            args: The arguments of any task; only per-run keys are used.
            trainings: Name, training sets and keys of every task of the stream that is trained, in order, for hosts whose
                model depends on them (the classes of a classifier).
        """
