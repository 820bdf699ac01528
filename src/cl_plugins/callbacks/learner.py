"""A stream of tasks in a custom trainer: holds the base and applies the method, task by task."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.plain_base import PlainBase
from ..adapters.values import Values
from ..base import ranks
from ..base.errors import CompatibilityError, Problem, RecipeError, RunStateError
from ..base.files import remove_leftovers
from ..base.lock import RunLock
from ..base.words import speaking
from ..contract.host import has_learner
from ..contract.phase import Phase
from ..replay.keeping import remove_candidates
from ..replay.trainers import replay_config
from ..run.reopen import read_record
from ..streams import Task
from ..training.phase_samples import PhaseSamples
from .callback import ContinualCallback, PhaseCallback, make_method, read_carry
from .places import warn_of_tower
from .prompts import tokenizer_of
from .recording import open_run
from .reporting import one_run_for_all
from .settings import WORDS


if TYPE_CHECKING:
    from peft import LoraConfig

    from ..config import ReplayConfig
    from ..contract.carry import Carry
    from ..streams import Stream
    from .learner_run import LearnerRun
    from .rows import Test
    from .session import AnswerFunction


class LearnerTask:
    """One task of a `ContinualLearner`.

    Attributes:
        model: What is trained; give it to the trainer.
        callback: Give it to the trainer's ``callbacks``.
        terms: Give it to a trainer with `ContinualTrainerMixin`; not needed for methods with penalties only.
    """

    def __init__(self, callback: ContinualCallback, model: Any, seed: int) -> None:
        self.model, self.callback, self._seed = model, callback, seed
        self.terms = callback.bind(model, seed)
        self._last: ContinualCallback = callback

    @property
    def finished(self) -> bool:
        """Whether all trainings of the task have ended."""
        last = (Phase(), *self.callback.further)[-1]
        return self._last.finished and self._last.phase == last

    @property
    def stopped(self) -> int:
        """Optimizer steps after which the last training was ended early; 0 if it was not."""
        return self._last.stopped

    def trainings(self) -> Iterator[LearnerTraining]:
        """The trainings of the task, one after the other; carry out each before the next is asked for.

        Most methods have one, which is the task itself. `mr_lora` trains a router as well.

        Raises:
            RunStateError: If a training was not carried out to its end.
        """
        yield LearnerTraining(Phase(), self.model, self.callback, self.terms, None)
        for phase in self.callback.further:
            if not self._last.finished or self.callback.update is None:
                what = f"task '{self.callback.task.name}' was not trained to its end."
                fix = "Train each of `task.trainings()` before the next."
                raise RunStateError(Problem(str(self.callback.directory), what, fix))
            method, context = self.callback.method, replace(self.callback.context(self._seed), phase=phase.name)
            samples = None
            if phase.samples == "kept":
                samples = PhaseSamples(self.callback.kept(), partial(method.phase_sample, context))
            callback = PhaseCallback(self.callback, phase, self._seed)
            model = method.begin_phase(context, phase, self.callback.update)
            self._last = callback
            yield LearnerTraining(phase, model, callback, callback.bind(model, self._seed), samples)


class LearnerTraining:
    """One training of a task.

    Attributes:
        phase: Which one; see `cl_plugins.contract.phase.Phase`.
        model: What is trained; give it to the trainer.
        callback: Give it to the trainer's ``callbacks``.
        terms: Give it to a trainer with `ContinualTrainerMixin`.
    """

    def __init__(self, phase: Phase, model: Any, callback: ContinualCallback, terms: Any, samples: Any) -> None:
        self.phase, self.model, self.callback, self.terms, self._samples = phase, model, callback, terms, samples

    def samples(self, own: Any) -> Any:
        """The training set.

        Args:
            own: The task's own. Of a `datasets.Dataset` the result is one, too: some trainers take no other.
        """
        if self._samples is None or not hasattr(own, "column_names"):
            return own if self._samples is None else self._samples
        from datasets import Dataset

        return Dataset.from_list([self._samples[i] for i in range(len(self._samples))])

    def arguments(self, args: Any) -> Any:
        """A copy of `transformers.TrainingArguments` with the settings and the folder of this training.

        Args:
            args: Those of the task's own training.
        """
        found = copy.copy(args)
        if self.phase.name:
            found.output_dir = f"{args.output_dir}.{self.phase.name}"
        for key, value in self.phase.keys.items():
            setattr(found, key, value)
        return found


class ContinualLearner:
    """Leads a model through a stream of tasks with a method and a custom trainer.

    Args:
        model: The base, a Transformers model without adapters. It is changed in place; a second learner may use it after
            `finish` or `release` of the first.
        method: Name of the method.
        directory: Where updates and the carry are written. An earlier carry there is taken up.
        lora: The LoRA, for the methods that use one.
        options: The method's options.
        seed: Task k begins with seed + 1000 (k - 1).
        replay: Which samples of past tasks are kept and how they come back, as ``cl.replay`` in a recipe; off by default.
            Needs a trainer with `ContinualTrainerMixin`.
        tokenizer: The model's tokenizer or processor: for methods that write texts of their own (selector ``mllm``), and
            for tests, where that of the base is taken if there is none.
        tasks: The tasks in the order of learning, as names, `Task`s or a `Stream`. With them ``directory`` is a run
            directory, which `cl-plugins status`, `report`, `compare` and `export` take, and `evaluate` and `finish` fill it.
        tests: Task -> its test: rows with ``prompt`` and ``reference`` (or TRL's ``completion``), which the model answers
            and the task's scorer scores; or a function ``model -> scores of the items`` (0-100).
        evaluation: As ``cl.eval`` in a recipe: ``scope``, ``zero_shot``, ``max_new_tokens``, ``max_items``, ``oracle``.
        answer: A function ``(model, task, rows) -> texts`` that answers rows in place of greedy generation.

    Raises:
        RecipeError: If method, options, replay, tasks or tests are wrong.
        RunStateError: If the directory's carry was made by another method or with another base, or is damaged; with
            ``tasks`` also if the directory is of another run or of other settings, which are named one by one.
    """

    def __init__(
        self,
        model: Any,
        method: str,
        directory: str | Path,
        lora: LoraConfig | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 42,
        replay: Mapping[str, Any] | ReplayConfig | None = None,
        tokenizer: Any = None,
        tasks: Stream | Sequence[str | Task] | None = None,
        tests: Mapping[str, Test] | None = None,
        evaluation: Mapping[str, Any] | None = None,
        answer: AnswerFunction | None = None,
    ) -> None:
        self.method = make_method(method, options)
        encode = tokenizer_of(tokenizer).encode if tokenizer is not None else None
        self._encode = partial(encode, add_special_tokens=False) if encode is not None else None
        self._replay = replay_config(replay, self.method)
        if self.method.capabilities.schedule != "sequential":
            what = f"'{method}' does not train its tasks one after the other."
            raise CompatibilityError(Problem("method", what, "Train this reference with the trainer alone."))
        if self.method.capabilities.low_rank and lora is None:
            raise CompatibilityError(Problem("lora", "is missing.", "Give a `peft.LoraConfig`."))
        self.directory = Path(directory)
        if tasks is None:
            self._check_without_tasks({"tests": tests, "evaluation": evaluation, "answer": answer})
        self.base = PlainBase(model, lora, str(self.directory))
        self._placed = False
        self.seed = seed
        self._run: LearnerRun | None = None
        if tasks is not None:
            self._run = open_run(
                self.base, self.method, self.directory, tasks=tasks, tests=tests or {}, lora=lora, options=options or {},
                seed=seed, replay=self._replay, evaluation=evaluation or {}, reader=tokenizer, answer=answer,
            )  # fmt: skip
            self.base.fingerprint = self._run.fingerprint
        if self._run is None:
            self.base.fingerprint |= {"weights": Values.of(model).sha256()}
        carry = read_carry(self.directory)
        if self._run is None and carry is not None:
            self._check_carry(carry)

    def _check_carry(self, carry: Carry) -> None:
        """Without ``tasks`` the carry alone tells what the directory was made with."""
        name, own = carry.base.get("name"), self.base.fingerprint
        what, fix = f"holds a carry of '{carry.method}' on {name!r}", "or choose another directory."
        if carry.method != self.method.name or name != own["name"]:
            problem = Problem(str(self.directory), f"{what}.", f"Use the same method and base, {fix}")
        elif carry.base.get("config_sha256") != own["config_sha256"]:
            why = f"{what} with another configuration of the model than this one has."
            problem = Problem(str(self.directory), why, f"Load the base with the same configuration, {fix}")
        elif carry.base.get("weights", own["weights"]) != own["weights"]:
            why = f"{what} whose weights are others than those of this model."
            problem = Problem(str(self.directory), why, f"Load the base as before, {fix}")
        else:
            return
        raise RunStateError(problem)

    def _check_without_tasks(self, given: Mapping[str, Any]) -> None:
        """What makes no sense in a directory that is no run."""
        if (self.directory / "run.json").exists():
            what, fix = "is the directory of a run of a recipe.", "Choose another directory."
            if _is_led(self.directory):
                what, fix = "was made by a learner with `tasks`.", "Give `tasks` (and `tests`) as before."
            raise RunStateError(Problem(str(self.directory), what, fix))
        what = "is given without `tasks`, which make the directory a run."
        if names := [name for name, value in given.items() if value is not None]:
            raise RecipeError([Problem(name, what, "Name the tasks: `tasks=[...]`.") for name in names])

    @property
    def finished(self) -> tuple[str, ...]:
        """Names of the tasks that are learned."""
        carry = read_carry(self.directory)
        return carry.tasks if carry is not None else ()

    @contextmanager
    def task(self, task: str | Task) -> Iterator[LearnerTask]:
        """Begin a task; train inside the block.

        Args:
            task: Its name, or a `Task` where the method needs a modality (with ``tasks``, those know it).

        Raises:
            RunStateError: If the task is already learned, or not the next of ``tasks``, or the block was left without a
                whole training.
        """
        task = task if isinstance(task, Task) else Task(name=task)
        with speaking(WORDS), RunLock(self.directory) if ranks.is_main() else nullcontext():
            if ranks.is_main():
                self._tidy()
            if self._run is not None:
                task = self._run.next_task(task.name)
            callback = ContinualCallback(
                self.method, self.directory, task, base=self.base, replay=self._replay, encode=self._encode
            )
            if self._run is not None:
                callback.run, callback.stream = self._run, self._run.config.stream.name
            seed = self.seed + 1000 * (len(callback.carry.tasks) if callback.carry is not None else 0)
            restored = self.method.restore(self.base, callback.carry)
            model = self.method.begin_task(callback.context(seed), restored)
            if not self._placed and ranks.is_main():
                warn_of_tower(model)
            self._placed = True
            led = LearnerTask(callback, model, seed)
            try:
                with one_run_for_all() if self._run is not None else nullcontext():
                    yield led
            except Exception as error:
                if self._run is not None:
                    self._run.failed(task.name, error)
                raise
            if self._run is not None and led.finished:
                self._run.task_ended()
        if not led.finished:
            what = f"task '{callback.task.name}' was not trained to its end."
            fix = "Train `task.model` with `task.callback`."
            if led.stopped:
                what = f"the training of task '{callback.task.name}' was ended after {led.stopped} optimizer steps."
                fix = (
                    "A callback of the trainer did it (early stopping, for example). Give the steps that are to be trained as "
                    "`max_steps`, and take the weights of the best step with `load_best_model_at_end`."
                )
            elif callback.further:
                fix = f"'{self.method.name}' has further trainings: carry out all of `task.trainings()`."
            raise RunStateError(Problem(str(self.directory), what, fix))

    def evaluate(self, batch_size: int = 8) -> dict[str, float]:
        """Test the model as it is now: the base before the first task, else what has been learned so far.

        Tests that were made before are not made again, and one that was stopped goes on, so that a script may call this
        after every task whether it was started once or several times.

        Args:
            batch_size: Rows that are answered together.

        Returns:
            Task -> score (0-100) in the current row of the matrix.

        Raises:
            RunStateError: If the learner has no ``tasks``.
            DataError: If a test cannot be used.
        """
        return self._recorded().evaluate(batch_size)

    def finish(self) -> Path:
        """Write ``final/``, matrix, metrics and report, and `release` the base.

        Returns:
            The directory of the run.

        Raises:
            RunStateError: If the learner has no ``tasks``, or some are not learned yet.
        """
        self._recorded().finish()
        with suppress(RunStateError):  # the weights of full fine-tuning stay
            self.release()
        return self.directory

    def _recorded(self) -> LearnerRun:
        if self._run is None:
            what = "is made without `tasks`, so that nothing but updates and carry is written."
            raise RunStateError(
                Problem("the learner", what, "Name them: `ContinualLearner(..., tasks=[...], tests=...)`.")
            )
        return self._run

    def release(self) -> None:
        """Give the base back as it was, for another learner; this one may go on later.

        Raises:
            RunStateError: If its weights are others: after full fine-tuning, or changed by someone else.
        """
        if self._run is not None:
            self._run.forget_model()
        self.base.release()

    def _tidy(self) -> None:
        """Take away what a killed process has left."""
        remove_leftovers(self.directory)
        remove_candidates(self.directory)

    def model(self, task: str | None = None) -> Any:
        """The model that answers, rebuilt from what was written.

        Args:
            task: The task whose questions it answers, for methods that choose the model by the task.
        """
        if self._run is not None:
            self._run.forget_model()
        carry = read_carry(self.directory)
        by_task = self.method.answers == "by_task"
        route = self.method.route(carry, task) if task is not None and by_task else None
        return self.method.restore(self.base, carry, route)


def _is_led(directory: Path) -> bool:
    """Whether a script has made the run of a directory; a damaged record says nothing."""
    try:
        return has_learner(read_record(directory)["recipe"])
    except RunStateError:
        return False
