"""The run directory of a stream that a script leads: the files of a run, written step by step as the script goes on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import Problem, RunStateError
from ..base.files import artefact
from ..base.lock import RunLock
from ..base.logs import logger, set_up
from ..base.words import speaking
from ..config import CLConfig, Recipe
from ..contract.host import has_learner
from ..records.run import RUN, read_run, write_run
from ..replay.keeping import candidate_files
from ..run import prepare
from ..run.evaluate import write_answers
from ..run.interrupt import StopRequest
from ..run.journal import Journal
from ..run.opening import note_failure
from ..run.plan import ORACLE, ZERO_SHOT, Step
from ..run.progress import Progress
from ..run.reading import read_data
from ..run.reopen import read_record
from ..run.runner import Runner
from ..run.trackers import StreamTracker, noted
from .host import LearnerArgs
from .rows import scored_by
from .settings import training_keys


if TYPE_CHECKING:
    from ..contract.method import Method
    from ..streams import Task
    from ..training.task import Learned
    from .host import LearnerHost


class LearnerRun(Runner):
    """A run whose trainings are carried out by a script.

    Args:
        host: The script as a host.
        recipe: What the script was made with, as keys and block of a recipe.
        method: The learner's method.

    Raises:
        RunStateError: If the directory belongs to another run, or the script was changed.
    """

    def __init__(self, host: LearnerHost, recipe: Recipe, method: Method) -> None:
        super().__init__(host, recipe, [], StopRequest())
        self._state.method = method
        self._host = host
        self._started = 0.0
        self._tracked: list[str] | None = None
        set_up()
        with speaking(host.words):
            ranks.on_main(lambda: prepare.check_room(self._root))
        with self._locked():
            ranks.on_main(self._settle)
            self._take_up_arguments()
            opening, self._plan = self._open()
            ranks.on_main(lambda: self._begin(opening))
            ranks.on_main(self._forget_halves)
            self._look_again()
            ranks.on_main(lambda: self._catch_up(self._plan))

    # --- the directory

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory's lock, with messages for the author of a script; all ranks fail if rank 0 cannot have it."""
        lock = RunLock(self._root) if ranks.is_main() else nullcontext()
        with speaking(self._host.words):
            ranks.on_main(lambda: lock.__enter__() and None)
            try:
                yield
            finally:
                lock.__exit__(None, None, None)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Hold the lock, and know what the directory holds now."""
        with self._locked():
            self._look_again()
            yield

    def _look_again(self) -> None:
        """Read the journal and the carry; the model in memory may have been trained since."""
        self._state.journal = Journal(self._root)
        self._state.carry = self._current_carry()
        self._state.forget_model()

    def _settle(self) -> None:
        """Refuse the directory of a recipe, and let ``run.json`` follow the journal where a kill came in between."""
        if not (self._root / RUN).exists():
            return
        record = read_record(self._root)
        if not has_learner(record["recipe"]):
            what = "is the directory of a run of a recipe."
            raise RunStateError(Problem(str(self._root), what, "Choose another directory."))
        self._write_arguments(record, self._arguments())

    def _arguments(self) -> dict[str, dict[str, Any]]:
        """Task -> arguments of its training, for every finished training."""
        entries = Journal(self._root).entries
        own = {key.split(":")[1]: e for key, e in entries.items() if key.startswith("train:") and key.count(":") == 1}
        return {task: dict(entry.details.get("arguments") or {}) for task, entry in own.items()}

    def _write_arguments(self, record: dict[str, Any], given: Mapping[str, Mapping[str, Any]]) -> None:
        tasks = record["stream"]["tasks"]
        if any((task.get("overrides") or {}) != given.get(task["name"], {}) for task in tasks):
            for task in tasks:
                task["overrides"] = dict(given.get(task["name"], {}))
            write_run(self._root, record)

    def _take_up_arguments(self) -> None:
        """The arguments of finished trainings belong to the stream, so that reports and comparisons know them."""
        given = self._arguments()
        stream = self._config.stream
        tasks = tuple(dataclasses.replace(t, overrides=given.get(t.name, {})) for t in stream.tasks)
        self._config = dataclasses.replace(self._config, stream=dataclasses.replace(stream, tasks=tasks))
        self._state.config = self._config

    def _forget_halves(self) -> None:
        """A task that was stopped before its carry was written is learned again from its beginning."""
        journal = Journal(self._root)
        halves = [
            key
            for key in journal.entries
            if key.startswith("train:") and f"consolidate:{key.split(':')[1]}" not in journal
        ]
        if halves:
            for key in halves:
                journal.remove(key)
            journal.rewrite()

    # --- training

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Which base this is."""
        return self._state.base_fingerprint

    @property
    def config(self) -> CLConfig:
        """Stream, method and settings."""
        return self._config

    def next_task(self, name: str) -> Task:
        """The task that is trained now; called with the directory's lock.

        Args:
            name: Its name.

        Returns:
            The task as ``tasks`` has it; one that is learned already is returned as well, and the callback refuses it.

        Raises:
            RunStateError: If it is not the next one.
        """
        ranks.on_main(self._forget_halves)  # of an attempt in this process
        self._look_again()
        learned = self._state.carry.tasks if self._state.carry is not None else ()
        names = self._config.stream.task_names
        if name in learned:
            return self._config.stream.task(name)
        if len(learned) == len(names) or name != names[len(learned)]:
            what = (
                f"task '{name}' is not the next one: tasks are learned in the order of `tasks` ({', '.join(names)})."
            )
            fix = f"Train '{names[len(learned)]}' now." if len(learned) < len(names) else "All of them are learned."
            raise RunStateError(Problem(str(self._root), what, fix))
        rest = [step for step in self._steps_now() if step.row != ZERO_SHOT]
        open_cells = [step.key for step in rest if step.key not in self._state.journal]
        if open_cells and ranks.is_main():
            logger.warning(
                "%s not measured, and cannot be once '%s' is learned; `learner.evaluate()` measures them before",
                ", ".join(open_cells) + (" is" if len(open_cells) == 1 else " are"),
                name,
            )
        return self._config.stream.task(name)

    def begins(self, task: str, phase: str, args: Any) -> None:
        """A training of a task begins.

        Args:
            task: Name of the task.
            phase: Name of a further phase; empty for the task's own training.
            args: The trainer's arguments.

        Raises:
            RunStateError: If a tracker that they name cannot be opened.
        """
        self._started = time.monotonic()
        step = Step("train", task, phase=phase or None)
        self._report_to(self._host.trackers(LearnerArgs({}, args)), args)
        ranks.on_main(self.tracker.open)
        ranks.on_main(lambda: self._track(self._plan))
        self.tracker.begin(task, self._state.steps_before(step.key), phase)
        if ranks.is_main():
            logger.info("step %d/%d: train %s", self._plan.index(step) + 1, len(self._plan), f"{task} {phase}".strip())

    @property
    def tracker(self) -> StreamTracker:
        """The trackers of the stream."""
        return self._state.tracker

    def _report_to(self, names: Mapping[str, Mapping[str, Any]], training: Any) -> None:
        """Take up the trackers that a trainer names; they stay open from one task to the next."""
        if self._tracked != list(names):
            self.tracker.close()
            self._state.tracker = StreamTracker(names, training, self._root)
            self._tracked = list(names)

    def _report_as_before(self) -> None:
        """A start in which no trainer is made sends what the trackers of earlier starts have missed."""
        if self._tracked is None and not self._left():
            self._report_to({name: {} for name in noted(self._root)}, SimpleNamespace())

    def _left(self) -> list[str]:
        """Tasks that are not learned yet."""
        learned = self._state.carry.tasks if self._state.carry is not None else ()
        return [name for name in self._config.stream.trained_names if name not in learned]

    def trained(
        self,
        task: str,
        phase: str,
        files: Sequence[Path],
        learned: Learned,
        args: Any,
        steps: int,
        samples: int | None,
    ) -> None:
        """Note that a training has ended and its files are written; on rank 0.

        Args:
            task: Name of the task.
            phase: Name of a further phase; empty for the task's own training.
            files: What it has written.
            learned: What it has learned.
            args: The trainer's arguments.
            steps: Optimizer steps.
            samples: Training samples, where known.
        """
        details: dict[str, Any] = {"optimizer_steps": steps, "processes": ranks.world_size()}
        details["arguments"] = training_keys(args) | ({"train_samples": samples} if samples is not None else {})
        if learned.numbers:
            details["numbers"] = learned.numbers
        self._note(Step("train", task, phase=phase or None), files, details)

    def consolidated(self, task: str) -> None:
        """Note that the carry of a task is written; on rank 0."""
        self._note(Step("consolidate", task), [self._root / "carry" / "carry.json"], {})
        self._write_arguments(read_run(self._root), self._arguments())

    def _note(self, step: Step, files: Sequence[Path], details: dict[str, Any]) -> None:
        artefacts: dict[str, Any] = {}
        for path in files:
            if path not in candidate_files(path.parent):  # samples are kept in the carry only
                artefacts |= artefact(self._root, path)
        seconds, self._started = time.monotonic() - self._started, time.monotonic()
        self._state.journal.finish(step.key, seconds, artefacts, **details)

    def task_ended(self) -> None:
        """A task is learned: take up what it has written."""
        ranks.barrier()
        self._take_up_arguments()
        self._look_again()

    def failed(self, task: str, error: Exception) -> None:
        """Note why a training has failed."""
        self.tracker.close()
        if ranks.is_main():
            note_failure(self._root, Step("train", task).key, error)

    def forget_model(self) -> None:
        """The script has put another model on the base."""
        self._state.forget_model()

    # --- tests

    def _steps_now(self) -> list[Step]:
        """The tests of the model as it is now, measured or not."""
        carry = self._state.carry
        tests = [step for step in self._plan if step.kind == "evaluate"]
        if carry is None:
            return [step for step in tests if step.row == ZERO_SHOT]
        return [step for step in tests if step.row != ZERO_SHOT and self._measurable(step)]

    def evaluate(self, batch_size: int) -> dict[str, float]:
        """Measure the cells of the current row that are missing.

        Args:
            batch_size: Items that are answered together.

        Returns:
            Task -> score (0-100), also of cells that were measured before.
        """
        with self._at_work():
            state, self._host.batch_size = self._state, batch_size
            self._report_as_before()
            steps = self._steps_now()
            todo = [step for step in steps if step.key not in state.journal]
            if todo:
                self._to_accelerator()
                names = dict.fromkeys(str(step.task) for step in todo if self._function(step) is None)
                read_data(state, list(names), [])
                sizes = {s.key: len(state.tests(self._config.stream.task(str(s.task)))) for s in todo}
                state.progress = Progress(
                    {key: ("evaluate", max(1, n // ranks.world_size())) for key, n in sizes.items()},
                    visible=ranks.is_main(),
                )
                try:
                    for step in state.by_route(todo):
                        self._do(step, self._plan)
                    self._end_row(self._plan, now=True)
                finally:
                    state.close_backend()
                    state.progress.close()
                state.journal = Journal(self._root)  # rank 0 has written to it
                if "finish" in state.journal:
                    ranks.on_main(lambda: self._write_report(self._plan))
            cells = {s: state.journal.entries[s.key] for s in steps if s.key in state.journal and s.row != ORACLE}
            return {str(step.task): float(entry.details["score"]) for step, entry in cells.items()}

    def _to_accelerator(self) -> None:
        """A base that no trainer has moved yet answers where it will be trained."""
        import torch

        model = self._state.session.base.model
        if torch.cuda.is_available() and next(model.parameters()).device.type == "cpu":
            model.to(torch.device("cuda", torch.cuda.current_device()))

    def _function(self, step: Step) -> Callable[[Any], Any] | None:
        """The user's function that scores a task; None where its answers are scored."""
        test = self._host.tests.get(str(step.task))
        return test if callable(test) else None

    def _evaluate(self, step: Step, plan: list[Step]) -> tuple[dict[str, Any], dict[str, Any]]:
        """As a recipe's run does; a task that a function scores has a score and no predictions."""
        function, state, task = self._function(step), self._state, str(step.task)
        if function is None:
            return super()._evaluate(step, plan)
        model = state.answering(None if step.row == ZERO_SHOT else state.carry, task)
        score = scored_by(function, model, task)  # on every rank: the function may use them all
        return ranks.on_main(lambda: write_answers(state, step, None, score))

    # --- the end

    def finish(self) -> None:
        """Write ``final/``, the metrics and the report, and end the run of the trackers.

        Raises:
            RunStateError: If a task is not learned yet.
        """
        with self._at_work():
            state = self._state
            if left := self._left():
                what = f"has not learned {', '.join(left)}."
                fix = "Train them first, or make the learner with the tasks that you want."
                raise RunStateError(Problem(str(self._root), what, fix))
            self._report_as_before()
            step = self._plan[-1]
            if step.key not in state.journal:
                self._do(step, self._plan)
            try:
                ranks.on_main(lambda: self._show(self._plan))
            finally:
                self.tracker.close()
