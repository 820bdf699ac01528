"""Carrying out the cells of a sweep on this machine: several at once, each on the devices of its slot."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..base.errors import ClPluginsError, Problem, RunStateError
from ..base.files import write_bytes
from ..base.lock import RunLock, holder
from ..run.interrupt import EXIT_RUN_AGAIN
from ..run.progress import clock
from . import ledger
from .cells import Cell
from .progress import Progress


#: Which GPUs a process sees.
VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
#: Starts the run of a cell (recipe and log are files of the cell) with more variables in its environment and gives its
#: exit code; None if it was not started because a stop was asked for.
Start = Callable[[Cell, Mapping[str, str]], "int | None"]
#: Scores the answers of a finished run by another source's rules; gives their folder, or None where that cannot be.
Rescore = Callable[[Path], "Path | None"]
#: Why a cell that is finished does not count, see `unchanged.Unchanged`; nothing if it does.
Changed = Callable[[Cell], Sequence[Problem]]
Say = Callable[[str], Any]
State = Literal["finished", "failed", "stopped"]
_PAUSE = 5.0  # seconds between two looks at a cell that another process is at work on


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        state: ``finished``, ``failed``, or ``stopped``: the same command goes on with it.
        seconds: How long it took now.
        code: Exit code of the run; None if nothing was started.
        before: Whether it was finished before.
        why: Of a failed one, what is known beside its log.
    """

    state: State
    seconds: float = 0.0
    code: int | None = None
    before: bool = False
    why: str = ""


def write_recipe(cell: Cell) -> Path:
    """Write the recipe of a cell where its run reads it."""
    text = yaml.safe_dump(cell.started(), sort_keys=False, allow_unicode=True)
    write_bytes(cell.recipe_file, text.encode("utf-8"))
    return cell.recipe_file


def carry_out(
    cell: Cell,
    directory: Path,
    start: Start,
    rescore: Rescore,
    environment: Mapping[str, str],
    changed: Changed = lambda cell: (),
) -> Outcome:
    """Carry out one cell and enter it into the ledger, unless it stands there.

    The caller holds the cell, see `claimed`.

    Args:
        cell: The cell.
        directory: Folder of the ledger.
        start: Starts its run.
        rescore: Scores its answers by other rules.
        environment: Variables for its run.
        changed: Why it does not count although it is finished, as after another machine has carried it out.
    """
    if problems := changed(cell):
        return Outcome("failed", why="; ".join(map(str, problems)))
    if ledger.entry_file(cell, directory).is_file():
        return Outcome("finished", before=True)
    began = time.monotonic()
    code: int | None = 0
    if not ledger.finished(cell.output_dir):
        write_recipe(cell)
        code = start(cell, environment)
        if code is None or code == EXIT_RUN_AGAIN:
            return Outcome("stopped", time.monotonic() - began, code)
        if code or not ledger.finished(cell.output_dir):
            ledger.record_failure(cell, code, time.monotonic() - began)
            return Outcome("failed", time.monotonic() - began, code)
    try:
        ledger.record(cell, directory, rescore(cell.output_dir))
    except (ClPluginsError, OSError) as error:
        ledger.record_failure(cell, code, time.monotonic() - began, str(error))
        return Outcome("failed", time.monotonic() - began, code, why=str(error))
    cell.failure.unlink(missing_ok=True)
    return Outcome("finished", time.monotonic() - began, code)


@contextmanager
def claimed(cell: Cell) -> Iterator[bool]:
    """Hold a cell, so that no other sweep works on it; whether that was possible.

    It is not where another process holds it, on this machine or on another one that shares the folder, and where a run
    of it is at work, as after the kill of a sweep.
    """
    place = cell.saves / ".claims" / cell.id
    lock = RunLock(place)
    try:
        lock.__enter__()
    except RunStateError:
        if holder(place) is None:
            raise
        yield False
        return
    try:
        yield holder(cell.output_dir) is None
    finally:
        lock.__exit__(None, None, None)


def slots(jobs: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """The variables of each of the runs that are at work at the same time.

    Args:
        jobs: How many there are.
        devices: What each sees as `VISIBLE`, in turn; none leaves the variable alone.
    """
    shared: dict[str, str] = {}
    if jobs > 1 and not devices and THREADS not in os.environ:
        shared[THREADS] = str(max(1, (os.cpu_count() or 1) // jobs))
    return [{**shared, **({VISIBLE: devices[i % len(devices)]} if devices else {})} for i in range(jobs)]


def run_cells(
    cells: Sequence[Cell],
    directory: Path,
    start: Start,
    *,
    say: Say,
    environments: Sequence[Mapping[str, str]] = ({},),
    rescore: Rescore = lambda run_dir: None,
    stopped: Callable[[], bool] = lambda: False,
    pause: float = _PAUSE,
    changed: Changed = lambda cell: (),
) -> dict[str, Outcome]:
    """Carry out cells, as many at once as there are environments.

    Args:
        cells: The cells, in the order in which they begin.
        directory: Folder of the ledger.
        start: Starts the run of a cell.
        say: Prints a line.
        environments: The variables of each slot, see `slots`.
        rescore: Scores the answers of a finished run by other rules.
        stopped: Whether nothing more is to be started.
        pause: Seconds between two looks at cells that other processes are at work on.
        changed: Why a finished cell does not count.

    Returns:
        The outcome of each cell, by its id.
    """
    known = [ledger.entry_file(cell, directory) for cell in cells]
    progress = Progress(len(cells), len(environments), _measured(cells, known))
    left, waited_for = deque(cells), set[str]()
    found: dict[str, Outcome] = {}
    lock = threading.Lock()

    def work(environment: Mapping[str, str]) -> None:
        while not stopped():
            with lock:
                if not left:
                    return
                cell = left.popleft()
            if ledger.entry_file(cell, directory).is_file():
                one(cell, environment)
                continue
            with claimed(cell) as mine:
                if mine:
                    one(cell, environment)
                    continue
            with lock:
                if cell.id not in waited_for:
                    waited_for.add(cell.id)
                    say(f"{cell.id}: another process is at work on it")
                left.append(cell)
                others = any(other.id not in waited_for for other in left)
            if not others:
                time.sleep(pause)

    def one(cell: Cell, environment: Mapping[str, str]) -> None:
        if not ledger.entry_file(cell, directory).is_file():
            with lock:
                progress.begins(cell.id, cell.recipe)
                if not ledger.finished(cell.output_dir):
                    say(f"{cell.id}: running, prints into {cell.log}")
        outcome = carry_out(cell, directory, start, rescore, environment, changed)
        with lock:
            found[cell.id] = outcome
            progress.ends(cell.id, outcome.seconds if outcome.state == "finished" else None)
            say(f"{cell.id}: {told(cell, outcome)} {progress.text()}")

    with ThreadPoolExecutor(len(environments), thread_name_prefix="sweep") as pool:
        for future in [pool.submit(work, environment) for environment in environments]:
            future.result()
    return {cell.id: found.get(cell.id, Outcome("stopped")) for cell in cells}


def told(cell: Cell, outcome: Outcome) -> str:
    """How a cell ended, for people."""
    if outcome.before:
        return "finished before"
    took = clock(outcome.seconds)
    if outcome.state == "finished":
        return f"done after {took}"
    if outcome.state == "stopped":
        return f"stopped after {took}, goes on with the same command"
    if outcome.why:
        return f"FAILED after {took}: {outcome.why}"
    how = "ended before its last step" if not outcome.code else f"exit code {outcome.code}"
    return f"FAILED after {took} ({how}), see {cell.log}"


def _measured(cells: Sequence[Cell], files: Sequence[Path]) -> list[tuple[str, float]]:
    """Recipe and seconds of the cells that are in the ledger already."""
    found = []
    for cell, path in zip(cells, files, strict=True):
        if path.is_file():
            try:
                found.append((cell.recipe, ledger.read_entry(path).seconds))
            except ClPluginsError:
                continue  # read again, and reported, by those who need its numbers
    return found
