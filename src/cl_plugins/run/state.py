"""What the steps of a run share: directories, carry, the model that answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.logs import logger
from ..config import CLConfig
from ..contract.carry import Carry, TaskUpdate
from ..contract.session import validates
from ..methods.registry import get_method
from ..streams import Task
from . import task_keys
from .data_sets import FileHashes
from .interrupt import StopRequest
from .journal import Journal
from .plan import JOINT, ZERO_SHOT, Step
from .precision import slow_precision
from .progress import Progress
from .reading import TrainingSets


if TYPE_CHECKING:
    from ..contract.backend import Backend
    from ..contract.host import Host
    from ..contract.method import Method, Route
    from ..contract.phase import Phase
    from ..contract.session import HostBase, Rows, Session, TaskArgs
    from ..contract.test_item import TestSet
    from ..evaluation.items import TaskScore
    from .trackers import StreamTracker


_NOTHING = object()


@dataclass
class RunState:
    """One run in this process.

    Attributes:
        host: The library that has model, data and trainer.
        root: The output directory.
        host_keys: The recipe without ``cl``.
        config: The checked ``cl:`` block.
        method: The method.
        journal: Finished steps (written by rank 0, read by all).
        progress: The display.
        stop: Whether someone asked the run to stop.
        callbacks: The user's own trainer callbacks.
        base_fingerprint: Which base this is.
        carry: The latest carry, None before the first task.
        scores: Scores by row and task, as far as they were read or written.
        rows_read: Rows of the matrix whose score files were read; what was measured since is in ``scores``.
        source: The directory of the run that is looked at, where ``root`` is another one.
    """

    host: Host
    root: Path
    host_keys: dict[str, Any]
    config: CLConfig
    method: Method
    journal: Journal
    stop: StopRequest
    callbacks: list[Any]
    base_fingerprint: dict[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=lambda: Progress({}, visible=False))
    carry: Carry | None = None
    scores: dict[tuple[str, str], TaskScore] = field(default_factory=dict)
    rows_read: set[str] = field(default_factory=set)
    source: Path | None = None

    def __post_init__(self) -> None:
        self._model: Any = None
        self._model_of: object = _NOTHING
        self._tests: dict[str, TestSet] = {}
        self._backend: tuple[object, Backend] | None = None
        self._trackers: dict[str, dict[str, Any]] = {}
        self._training_sets = TrainingSets()
        self.restore_seconds: float | None = None
        self.told: set[str] = set()  # what the log need not say again

    @classmethod
    def to_look(cls, host: Host, root: Path, host_keys: Mapping[str, Any], config: CLConfig) -> RunState:
        """A state that trains nothing: for checks, and for the inspection of a finished run.

        Args:
            host: The host.
            root: Where results go.
            host_keys: The recipe without ``cl``.
            config: The checked ``cl:`` block.
        """
        method = get_method(config.method)(config.options)
        return cls(host, root, dict(host_keys), config, method, Journal(root), StopRequest(), [])

    @property
    def schedule(self) -> str:
        """The method's schedule."""
        return self.method.capabilities.schedule

    def position(self, task: str) -> int:
        """Number of a task in the stream, from 1; the joint training counts as 1."""
        return task_keys.position(self.config, task)

    def seed(self, task: str) -> int:
        """The seed that a task trains with."""
        return task_keys.seed(self.config, self.host_keys, task)

    def directory(self, task: str, phase: str = "") -> Path:
        """``tasks/01_path``; of a further phase ``tasks/01_path.router``, for what its trainer writes."""
        folder = task_keys.directory(self.root, self.config, task)
        return folder.with_name(f"{folder.name}.{phase}") if phase else folder

    def phase(self, name: str | None) -> Phase | None:
        """A further phase of the method's tasks; None for the first."""
        return next((phase for phase in self.method.phases if phase.name == name), None) if name else None

    def update(self, task: str) -> TaskUpdate:
        """The update that a finished training left, compared with its hashes in journal and ``update.json``."""
        from ..training.handover import read_update

        folder = self.directory(task)
        self.journal.verify(folder)
        return read_update(folder, task)

    def keys_of(self, task: str) -> dict[str, Any]:
        """The recipe's host keys with the overrides of a task."""
        return {**self.host_keys, **self.config.overrides_for(task)}

    def task_args(self, task: str, phase: Phase | None = None) -> TaskArgs:
        """The host's arguments of one training of a task; seeds every generator, as the host does."""
        folder = self.directory(task, phase.name if phase else "")
        keys = task_keys.keys_of(self.host, self.host_keys, self.config, task, folder, validated=phase is None)
        keys |= phase.keys if phase else {}
        args = self.host.task_args(keys)
        self._trackers = self._trackers or self.host.trackers(args)
        args.training.report_to = []  # one tracker for the stream instead of one per task
        return args

    @cached_property
    def run_args(self) -> TaskArgs:
        """The host's arguments for what does not belong to a single task."""
        first = self.config.block.only or next((t.name for t in self.config.stream.tasks if t.train), None)
        return self.task_args(JOINT if self.schedule == "joint" or first is None else first)

    @cached_property
    def tracker(self) -> StreamTracker:
        """The trackers of the stream."""
        from .trackers import StreamTracker

        args = self.run_args
        return StreamTracker(self._trackers, args.training, self.root)

    @property
    def steps_done(self) -> int:
        """Optimizer steps of all finished trainings."""
        return self.steps_before("")

    def steps_before(self, training: str) -> int:
        """Optimizer steps of the finished trainings before one.

        Args:
            training: Its key in the journal.
        """
        entries = self.journal.entries.values()
        return sum(int(e.details.get("optimizer_steps", 0)) for e in entries if e.step != training)

    @cached_property
    def session(self) -> Session:
        """Tokenizer or processor, and base."""
        trained = [task for task in self.config.stream.tasks if task.train]
        trainings = [(t.name, t.train, self.keys_of(t.name)) for t in trained]
        return self.host.session(self.run_args, trainings)

    @cached_property
    def hashes(self) -> FileHashes:
        """Hashes of the data files, kept in the run's directory."""
        return FileHashes(self.root / ".data_hashes.json")

    def tests(self, task: Task) -> TestSet:
        """The test items of a task, prepared once."""
        if task.name not in self._tests:
            self._tests[task.name] = self.session.test_items(
                task,
                self.keys_of(task.name),
                self.config.eval.max_items,
                for_engine=self.config.eval.backend != "host",
                drop_too_long=self.config.eval.too_long == "drop",
            )
        return self._tests[task.name]

    def shortened_tests(self) -> dict[str, dict[str, int]]:
        """Task -> how many of its test items the model gets in full and in part, of those that were read and have some cut."""
        return {
            name: {"items": len(items), "cut_items": items.shortened}
            for name, items in self._tests.items()
            if items.shortened
        }

    def keep_training_set(self, task: str, args: TaskArgs) -> None:
        """Prepare and check the training set of a task ahead of its training."""
        self._training_sets.add(task, args, self._prepare(task, args))

    def kept_training_set(self, task: str) -> dict[str, Any]:
        """What `keep_training_set` has prepared, until it is taken; nothing if there is none."""
        return self._training_sets.look(task)

    def training_set(self, task: str, args: TaskArgs) -> tuple[dict[str, Any], Rows | None]:
        """The training set of a task that begins, and with replay the records behind it."""
        return self._training_sets.take(task) or self._prepare(task, args)

    def _prepare(self, task: str, args: TaskArgs) -> tuple[dict[str, Any], Rows | None]:
        """The training set, with the validation set if there is one; the problems of both at once."""
        problems: list[Problem] = []
        valid, found = None, None
        try:
            valid = self._validation_set(task, args)
        except DataError as error:
            problems += error.at(f"task '{task}'")
        try:
            found = self._prepare_training(task, args)
        except DataError as error:
            problems = [*error.at(f"task '{task}'"), *problems]
        if problems or found is None:
            raise DataError(problems)
        module, rows = found
        return ({**module, "eval_dataset": valid} if valid is not None else module), rows

    def _validation_set(self, task: str, args: TaskArgs) -> Any:
        """The samples whose loss is measured while a task trains; None if none is."""
        if not validates(args.training):
            return None
        tasks = self.config.stream.tasks if task == JOINT else (self.config.stream.task(task),)
        keys = self.host.data_keys
        parts = [
            (t.name, t.valid, {k: v for k, v in self.config.overrides_for(t.name).items() if k in keys})
            for t in tasks
            if t.valid
        ]
        return self.session.validation_set(args, parts)

    def _prepare_training(self, task: str, args: TaskArgs) -> tuple[dict[str, Any], Rows | None]:
        keys = self.host.data_keys
        if task == JOINT and any(keys & self.config.overrides_for(t.name).keys() for t in self.config.stream.tasks):
            parts = [
                (t.name, t.train, {k: v for k, v in self.config.overrides_for(t.name).items() if k in keys})
                for t in self.config.stream.tasks
            ]
            return self.session.joint_training_set(args, parts), None
        return self.session.training_set(task, args, with_rows=self.config.replay.enabled)

    @cached_property
    def _base(self) -> HostBase:
        base = self.session.base
        for line in slow_precision(self.host_keys, base.model):
            logger.info("%s", line)
        return base

    def route(self, carry: Carry | None, task: str) -> Route:
        """What decides, in addition to the carry, which model answers a task's questions.

        A probe belongs to no task: the model of the latest task answers it.
        """
        if carry is not None and carry.tasks and self.config.probe(task) is not None:
            task = carry.tasks[-1]
        return self.method.route(carry, task) if self.method.answers == "by_task" else None

    def by_route(self, steps: Sequence[Step]) -> list[Step]:
        """Steps that test with one carry, those that one model answers behind each other: it is rebuilt once for them.

        The model that the next task starts from comes last, since it may then stay in memory.

        Args:
            steps: The steps of a row, or a single other step.
        """
        if self.method.answers != "by_task":
            return list(steps)
        groups: dict[Route, list[Step]] = {}
        for step in steps:
            carry = None if step.row == ZERO_SHOT else self.carry
            groups.setdefault(self.route(carry, str(step.task)) if step.tests else None, []).append(step)
        last = groups.pop(None, [])
        return [step for group in (*groups.values(), last) for step in group]

    def answering(self, carry: Carry | None, task: str | None = None) -> Any:
        """The model that answers with a carry; rebuilt only if another one is in memory.

        Args:
            carry: The carry.
            task: The task whose questions it answers; None for the model that the next task starts from.
        """
        route = self.route(carry, task) if task is not None else None
        key = (carry.tasks if carry is not None else None, route)
        if self._model_of != key or self._model_of is _NOTHING:
            base = self._base
            started = time.monotonic()
            self._model = self.method.restore(base, carry, route)
            self.session.restored(carry.tasks if carry is not None else ())
            self._model_of = key
            self.restore_seconds = time.monotonic() - started
        return self._model

    def kept_backend(self, key: object, make: Callable[[], Backend]) -> Backend:
        """A backend that stays open from one test set to the next.

        Args:
            key: Which model it answers with; a backend with another key is closed first.
            make: Makes it.
        """
        if self._backend is None or self._backend[0] != key:
            self.close_backend()
            self._backend = (key, make())
        return self._backend[1]

    def close_backend(self) -> None:
        """Give back what a backend holds."""
        if self._backend is not None:
            self._backend[1].close()
            self._backend = None

    def most_pictures(self) -> int:
        """The largest number of pictures in one item of the test sets that were read."""
        return max((item.picture_count for items in self._tests.values() for item in items), default=0)

    def forget_model(self) -> None:
        """The model in memory has been trained; the next one is rebuilt from what was written."""
        self._model, self._model_of = None, _NOTHING
