"""Worker processes: they convert units, and their results come back in the order of the units."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ...base.errors import DataError, Problem, RunStateError
from .contract import Context, Converter, Unit
from .images import ImageRules
from .registry import load
from .writer import Tally, make_shard


_AHEAD = 3  # units per worker that may be under way or waiting; bounds memory


@dataclass(frozen=True)
class Job:
    """What all units of a split have in common.

    Attributes:
        kind: ``module:class`` of the converter.
        context: What the converter is told.
        split: Which split.
        out: The data folder.
        rules: How pictures are stored.
    """

    kind: str
    context: Context
    split: str
    out: Path
    rules: ImageRules


@dataclass(frozen=True)
class _Answer:
    """A tally, or what went wrong; exceptions lose their problems when they are sent between processes."""

    tally: Tally | None
    problems: tuple[Problem, ...] = ()


_converter: tuple[Job, Converter] | None = None


def _work(job: Job, unit: Unit, number: int, limit: int | None) -> _Answer:
    """Convert a unit in this process; the converter is kept for the next one."""
    global _converter
    if _converter is None or _converter[0] != job:
        _converter = (job, load(job.kind)(job.context))
    converter = _converter[1]
    try:
        return _Answer(make_shard(converter, job.split, unit, number, job.out, job.rules, limit))
    except DataError as error:
        return _Answer(None, tuple(error.problems) or (Problem(job.kind, str(error), ""),))
    except OSError:
        raise  # a full disk, a folder without permission: says itself what it is
    except Exception as error:
        where = f"{converter.dataset(job.split)}, part {unit.key}"
        trace = "".join(traceback.format_exception(error)[-3:]).strip()
        fix = "This is a bug in the converter; please report it. Finished parts are kept."
        return _Answer(None, (Problem(where, f"could not be converted:\n{trace}\n", fix),))


def _start() -> None:
    """In a new worker: Ctrl-C is the parent's business, and without a parent there is no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class Pool:
    """Context manager that converts units in ``workers`` processes, or in this one.

    Args:
        workers: Number of processes; 1 starts none.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise DataError(Problem("--workers", f"is {workers}.", "Give a number above 0."))
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        """Processes start with the first unit."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let units that are under way finish; those that wait are given up."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def one(self, job: Job, unit: Unit, number: int, limit: int | None) -> Tally:
        """Convert one unit here.

        Raises:
            DataError: The raw file is useless, or the converter has a fault.
        """
        return _tally(_work(job, unit, number, limit))

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[Tally]:
        """Convert units; a few are read ahead, never all of them.

        Yields:
            Their tallies in order.

        Raises:
            DataError: The raw file is useless, or the converter has a fault.
            RunStateError: A worker died.
        """
        if self._workers == 1:
            for number, unit in enumerate(units):
                yield self.one(job, unit, number, None)
            return
        waiting: deque[Future[_Answer]] = deque()
        try:
            for number, unit in enumerate(units):
                waiting.append(self._pool().submit(_work, job, unit, number, None))
                if len(waiting) >= _AHEAD * self._workers:
                    yield _tally(waiting.popleft().result())
            while waiting:
                yield _tally(waiting.popleft().result())
        except BrokenProcessPool as error:
            self._executor = None
            fix = "Run the same command again, with fewer --workers if memory is short; finished parts are kept."
            raise RunStateError(Problem("workers", "a worker process died.", fix)) from error
        finally:
            for future in waiting:
                future.cancel()

    def _pool(self) -> ProcessPoolExecutor:
        if self._executor is None:
            from multiprocessing import get_context

            # Fresh processes: a fork would copy locks of libraries that are in the middle of something.
            self._executor = ProcessPoolExecutor(self._workers, get_context("spawn"), initializer=_start)
        return self._executor


def _tally(answer: _Answer) -> Tally:
    if answer.tally is None:
        raise DataError(answer.problems)
    return answer.tally
