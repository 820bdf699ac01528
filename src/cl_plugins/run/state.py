"""What the steps of a run share: directories, carry, the model that answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CLConfig
from ..contract.carry import Carry, TaskUpdate
from ..streams import Task
from .interrupt import StopRequest
from .journal import Journal
from .plan import JOINT
from .progress import Progress


if TYPE_CHECKING:
    from ..contract.test_item import TestItem
    from ..generation.backend import Backend
    from ..host.session import Session
    from ..host.task_args import HostArgs
    from ..methods import Method
    from .trackers import StreamTracker


_NOTHING = object()


@dataclass
class RunState:
    """One run in this process.

    Attributes:
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
    """

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

    def __post_init__(self) -> None:
        self._model: Any = None
        self._model_of: object = _NOTHING
        self._tests: dict[str, list[TestItem]] = {}
        self._backend: tuple[object, Backend] | None = None
        self._report_to: Any = None
        self.restore_seconds: float | None = None

    @property
    def schedule(self) -> str:
        """The method's schedule."""
        return self.method.capabilities.schedule

    def position(self, task: str) -> int:
        """Number of a task in the stream, from 1; the joint training counts as 1."""
        return 1 if task == JOINT else self.config.stream.task_names.index(task) + 1

    def seed(self, task: str) -> int:
        """The seed that a task trains with: the recipe's plus 1000 for every task before it."""
        base = int(self.host_keys.get("seed", 42))
        return base + 1000 * (self.position(task) - 1) if self.config.block.seed_per_task else base

    def directory(self, task: str) -> Path:
        """``tasks/01_path``."""
        return self.root / "tasks" / f"{self.position(task):02d}_{task}"

    def update(self, task: str) -> TaskUpdate:
        """The update that a finished training left, compared with its hashes in journal and ``update.json``."""
        from ..replay.store import CANDIDATES
        from ..training.handover import TENSORS, UPDATE, read_update

        folder = self.directory(task)
        self.journal.verify(folder, (UPDATE, TENSORS, CANDIDATES))
        return read_update(folder, task)

    def task_args(self, task: str) -> HostArgs:
        """The host's arguments of one task; seeds every generator, as the host does."""
        from ..base.logs import quieten_host
        from ..host.task_args import parse, task_keys

        stream = self.config.stream
        if task == JOINT:
            datasets = [name for t in stream.tasks for name in t.train]
            overrides: dict[str, Any] = {}
        else:
            datasets, overrides = list(stream.task(task).train), self.config.overrides_for(task)
        keys = task_keys(
            self.host_keys,
            datasets=datasets,
            output_dir=self.directory(task),
            seed=self.seed(task),
            overrides=overrides,
        )
        args = parse(keys)
        quieten_host()
        self._report_to = args.training.report_to or self._report_to
        args.training.report_to = []  # one tracker for the stream instead of one per task
        return args

    @cached_property
    def run_args(self) -> HostArgs:
        """The host's arguments for what does not belong to a single task."""
        first = self.config.block.only or next((t.name for t in self.config.stream.tasks if t.train), None)
        return self.task_args(JOINT if self.schedule == "joint" or first is None else first)

    @cached_property
    def tracker(self) -> StreamTracker:
        """The trackers of the stream."""
        from .trackers import StreamTracker

        report_to = self._report_to if self._report_to is not None else self.run_args.training.report_to
        return StreamTracker(list(report_to), self.run_args.training, self.root)

    def steps_before(self, task: str) -> int:
        """Optimizer steps of the finished tasks before one."""
        entries = self.journal.entries.values()
        return sum(int(e.details.get("optimizer_steps", 0)) for e in entries if e.step != f"train:{task}")

    @cached_property
    def session(self) -> Session:
        """Tokenizer, template and base."""
        from ..host.session import Session

        return Session(self.run_args)

    def tests(self, task: Task) -> list[TestItem]:
        """The test items of a task, tokenised once."""
        if task.name not in self._tests:
            from ..host.test_sets import load_test_items

            session = self.session
            self._tests[task.name] = load_test_items(
                task,
                self._test_args(task),
                session.template,
                session.tokenizer_module,
                self.config.eval.max_items,
                for_engine=self.config.eval.backend != "host",
            )
        return self._tests[task.name]

    def _test_args(self, task: Task) -> HostArgs:
        """The run's arguments with the task's own folders and ``cutoff_len``."""
        import copy
        import dataclasses

        keys = {**self.host_keys, **self.config.overrides_for(task.name)}
        data = copy.copy(self.run_args.data)
        data.dataset_dir = keys.get("dataset_dir", type(data).dataset_dir)
        data.media_dir = keys.get("media_dir") or data.dataset_dir
        data.cutoff_len = int(keys.get("cutoff_len", type(data).cutoff_len))
        return dataclasses.replace(self.run_args, data=data)

    def answering(self, carry: Carry | None, task: str | None = None) -> Any:
        """The model that answers with a carry; rebuilt only if another one is in memory.

        Args:
            carry: The carry.
            task: The task whose questions it answers; None for the model that the next task starts from.
        """
        route = self.method.route(carry, task) if task is not None else None
        key = (carry.tasks if carry is not None else None, route)
        if self._model_of != key or self._model_of is _NOTHING:
            base = self.session.base
            started = time.monotonic()
            self._model = self.method.restore(base, carry, route)
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
