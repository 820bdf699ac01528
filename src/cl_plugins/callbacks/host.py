"""A script with its own trainer as the host of a run, see `cl_plugins.contract.host.Host`.

The script builds model, data and trainer; what a run asks of its host besides (the base, the tests, how answers are
generated, how a model is saved) is answered here. Without a learner, for the commands that look at a finished run, the base
is opened by its recorded name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from ..contract.capabilities import RunFacts
from ..contract.host import KeyInfo, ModelSizes, Trained
from ..run.card import TRAINED_BY_SCRIPT
from ..run.precision import MIXED
from .rows import ScoreFunction, TestRow, record_of_test
from .settings import WORDS


if TYPE_CHECKING:
    from ..adapters.plain_base import PlainBase
    from ..contract.capabilities import Capabilities
    from ..contract.method import Method
    from ..contract.session import TaskArgs
    from ..streams import Stream, Task
    from .session import AnswerFunction, LearnerSession


TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class LearnerArgs:
    """The arguments of a run, see `cl_plugins.contract.session.TaskArgs`; the trainer's own are the script's.

    Attributes:
        keys: The keys in ``run.json``.
        training: What a run reads of a trainer's arguments, or the arguments of a trainer.
    """

    keys: Mapping[str, Any]
    training: Any = field(default_factory=lambda: SimpleNamespace(report_to=[], eval_strategy="no", bf16=False))

    @property
    def base_name(self) -> str:
        """Folder or hub name of the base."""
        return str(self.keys.get("model_name_or_path", ""))

    @property
    def trust_remote_code(self) -> bool:
        """Whether the base may contain its own code."""
        return bool(self.keys.get("trust_remote_code"))

    @property
    def trained_modules(self) -> list[str]:
        """Modules that are trained whole."""
        return list(self.keys.get("additional_target") or ())


@dataclass(frozen=True)
class ScriptData:
    """The training set or the test of a task, which only the script has, see `cl_plugins.contract.host.DataSet`.

    Attributes:
        name: ``<task>/train`` or ``<task>/test``.
        test: The test, in the script itself.
    """

    name: str
    test: tuple[TestRow, ...] | ScoreFunction | None = None

    @property
    def place(self) -> Hashable:
        """All data are in the script."""
        return ""

    def problems(self) -> list[Problem]:
        """A command has no data: they are in the script."""
        what = "belongs to a run that a script has made with `ContinualLearner`, which alone has its data."
        return [Problem(f"test set {self.name}", what, "Call `learner.evaluate()` in that script.")]

    def absent(self) -> list[Problem]:
        """None."""
        return []

    def files(self) -> list[Path]:
        """None."""
        return []

    def samples(self) -> int | None:
        """Not known."""
        return None

    def record(self, sha256: Callable[[Path], str]) -> dict[str, Any]:
        """Number and hash of the rows, or the name of the function; of a training set nothing is known ahead."""
        return record_of_test(self.test) if self.test is not None else {}


class LearnerHost:
    """A script with its own trainer.

    Args:
        base: The base of the learner; None for a command that looks at a run.
        reader: Tokenizer or processor; None to take that of the base.
        tests: Task -> its test.
        answer: The user's own function for answers.
    """

    name = TRAINED_BY_SCRIPT
    engines: tuple[str, ...] = ()
    command = "python"
    generates = True
    words = WORDS
    path_keys: frozenset[str] = frozenset()
    engine_keys: frozenset[str] = frozenset()
    data_keys: frozenset[str] = frozenset()
    sample_keys: frozenset[str] = frozenset()
    validation_keys: frozenset[str] = frozenset()
    prompt_keys: frozenset[str] = frozenset()

    def __init__(
        self,
        base: PlainBase | None = None,
        reader: Any = None,
        tests: Mapping[str, tuple[TestRow, ...] | ScoreFunction] | None = None,
        answer: AnswerFunction | None = None,
    ) -> None:
        self.base, self.reader, self.tests, self.answer = base, reader, dict(tests or {}), answer
        self.batch_size = 8

    def quiet(self) -> AbstractContextManager[None]:
        """Nothing is printed."""
        return nullcontext()

    def require(self) -> None:
        """Transformers is a dependency of the package."""

    def key_table(self) -> list[KeyInfo]:
        """None: a script has no recipe."""
        return []

    def key_info(self, key: str) -> KeyInfo:
        """What the script sets."""
        return KeyInfo(key, "per_run", "set by the script")

    def key_problems(self, raw: Mapping[str, Any]) -> list[Problem]:
        """None: a script has no recipe."""
        return []

    def override_problems(self, overrides: Mapping[str, Any], where: str) -> list[Problem]:
        """None: a script has no recipe."""
        return []

    def facts(self, keys: Mapping[str, Any], stream: Stream) -> RunFacts:
        """See `Host.facts`."""
        half = keys.get("infer_dtype") in MIXED.values()
        return RunFacts(str(keys.get("finetuning_type")), stream, half_precision=half, keys=keys)

    def method_problems(self, name: str, able: Capabilities, facts: RunFacts, penalised: bool) -> list[Problem]:
        """The learner's own checks decide."""
        return []

    def data_set(
        self, name: str, keys: Mapping[str, Any], limit: int | None = None, *, test: bool = False
    ) -> ScriptData:
        """See `Host.data_set`."""
        task, _, kind = name.rpartition("/")
        return ScriptData(name, self.tests.get(task) if kind == TEST else None)

    def validates(self, keys: Mapping[str, Any]) -> bool:
        """The script's own trainer may validate; the run does not know."""
        return False

    def chooses_weights(self, keys: Mapping[str, Any]) -> bool:
        """See `validates`."""
        return False

    def validation_problems(self, keys: Mapping[str, Any], where: str) -> list[Problem]:
        """None."""
        return []

    def base_problems(self, keys: Mapping[str, Any]) -> list[Problem]:
        """None."""
        return []

    def sets_problems(
        self, trained: Mapping[str, Sequence[Any]], tested: Mapping[str, Sequence[Any]], *, whole: bool
    ) -> list[Problem]:
        """None: each is checked by itself."""
        return []

    def sizes(self, keys: Mapping[str, Any], method: Method, task: Task) -> ModelSizes:
        """Sizes are counted for recipes only.

        Raises:
            CompatibilityError: Always.
        """
        raise CompatibilityError(Problem("sizes", "are counted for recipes only.", "Count the model's parameters."))

    def trained(self, keys: Mapping[str, Any], method: Method, tasks: Sequence[Task]) -> Trained:
        """Known for recipes only.

        Raises:
            CompatibilityError: Always.
        """
        raise CompatibilityError(Problem("recipe", "is that of a script.", "Use a recipe of LLaMA-Factory."))

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
        """See `Host.task_keys`."""
        return {**keys, **(overrides or {}), "output_dir": str(output_dir), "seed": seed}

    def task_args(self, keys: dict[str, Any]) -> LearnerArgs:
        """See `Host.task_args`; the script seeds its trainings."""
        return LearnerArgs(keys)

    def trackers(self, args: TaskArgs) -> dict[str, dict[str, Any]]:
        """``report_to`` of the script's trainer."""
        return {str(name): {} for name in args.training.report_to or ()}

    def looking_keys(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """See `Host.looking_keys`."""
        return dict(keys)

    def fingerprint(self, args: TaskArgs) -> dict[str, Any]:
        """That of the checkpoint, and of a learner's base a sample of the weights in memory, which may have been changed."""
        name = args.base_name
        found = _checkpoint(name) if name else {"name": "", "sha256": None, "commit": None}
        if self.base is not None:
            weights = _sample(self.base.model)
            found["sha256"] = found["sha256"] or weights
            found["settings"] = {**(found.get("settings") or {}), "model in memory": {"weights": weights}}
        return found

    def session(
        self, args: TaskArgs, trainings: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]] = ()
    ) -> LearnerSession:
        """See `Host.session`."""
        from .session import LearnerSession

        return LearnerSession(self, args)


def _checkpoint(name: str) -> dict[str, Any]:
    from ..host.fingerprint import base_fingerprint

    place: Any = SimpleNamespace(model_name_or_path=name, cache_dir=None, model_revision="main")
    return base_fingerprint(place)


def _sample(model: Any) -> str:
    """A hash over names, shapes and types of all parameters, and over a few values of each."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} ".encode())
        digest.update(repr(parameter.detach().flatten()[:8].float().tolist()).encode())
    return digest.hexdigest()
