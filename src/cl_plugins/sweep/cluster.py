"""A sweep on a cluster: each cell is a job that `submitit` submits. All machines share the folder of the sweep.

`submitit` is imported only here, and only when a cluster is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem, RecipeError
from ..base.files import write_json
from . import ledger
from .cells import Cell
from .processes import Processes
from .progress import Progress
from .work import Outcome, Say, run_cells, told


#: Parameters that submitit's executors would otherwise fill in with minutes and without a GPU.
DEFAULTS: dict[str, Any] = {"name": "cl-sweep", "timeout_min": 24 * 60}
_PAUSE = 10.0  # seconds between two looks at the jobs


class Work:
    """What a job does: it carries out one cell as a sweep on that machine would.

    Where the scheduler ends it early (a time limit, a preemption), submitit calls `checkpoint`: the run stops after the
    files that it is writing, and the job is queued again and goes on with it.

    Args:
        cell: The cell.
        directory: Folder of the ledger.
        command: The launch command; the recipe is appended.
    """

    def __init__(self, cell: Cell, directory: Path, command: Sequence[str]) -> None:
        self.cell, self.directory, self.command = cell, directory, list(command)
        self._processes: Processes | None = None

    def __call__(self) -> dict[str, Any]:
        """Carry out the cell; gives its outcome as plain types."""
        processes = self._processes = Processes()
        outcomes = run_cells(
            [self.cell],
            self.directory,
            lambda cell, more: processes.run([*self.command, str(cell.recipe_file)], cell.log, more),
            say=print_at_once,
            stopped=lambda: processes.stopped,
        )
        return vars(outcomes[self.cell.id])

    def checkpoint(self) -> Any:
        """Stop the run cleanly; gives what submitit queues again."""
        from submitit.helpers import DelayedSubmission

        if self._processes is not None:
            self._processes.stop()
            self._processes.wait()
        return DelayedSubmission(Work(self.cell, self.directory, self.command))

    def __getstate__(self) -> dict[str, Any]:
        """Without the processes of this machine."""
        return {**vars(self), "_processes": None}


def print_at_once(line: str) -> None:
    """Print a line into the job's log."""
    import sys

    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def executor(folder: Path, cluster: str, parameters: Mapping[str, Any]) -> Any:
    """Submitit's executor for a cluster.

    Args:
        folder: Where submitit keeps its files; every machine must see it.
        cluster: ``slurm``, or ``local`` for processes of this machine.
        parameters: What the jobs ask for, as in ``{"timeout_min": 600, "slurm_partition": "gpu"}``.

    Raises:
        RecipeError: submitit is not installed, or does not know the cluster or a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        fix = "Install it: `pip install submitit`, or `pip install 'cl-plugins[cluster]'`."
        raise RecipeError(Problem("--cluster", "needs the package submitit, which is not installed.", fix)) from error
    wanted = {**DEFAULTS, **({"gpus_per_node": 1} if cluster == "slurm" else {}), **parameters}
    try:
        made = submitit.AutoExecutor(folder=folder, cluster=cluster)
    except (ValueError, RuntimeError) as error:
        fix = "Use `slurm` on a machine that submits Slurm jobs, or `local`."
        raise RecipeError(Problem(f"--cluster {cluster}", f"cannot be used here ({error}).", fix)) from error
    try:
        made.update_parameters(**wanted)
    except (NameError, AssertionError, TypeError, ValueError) as error:
        fix = "Give submitit's parameters, as in `--cluster-set timeout_min=600 slurm_partition=gpu`."
        raise RecipeError(Problem("--cluster-set", " ".join(str(error).split()), fix)) from error
    return made


def run_on_cluster(
    cells: Sequence[Cell],
    directory: Path,
    commands: Mapping[str, Sequence[str]],
    submit: Any,
    *,
    say: Say,
    stopped: Callable[[], bool] = lambda: False,
    pause: float = _PAUSE,
) -> dict[str, Outcome]:
    """Submit a job for every cell that is not finished and has none, and wait for all of them.

    A job that an earlier start has submitted is found again by its note next to the run.

    Args:
        cells: The cells.
        directory: Folder of the ledger.
        commands: The launch command of each cell, by its id.
        submit: submitit's executor.
        say: Prints a line.
        stopped: Whether to wait no longer; the jobs go on.
        pause: Seconds between two looks at the jobs.

    Returns:
        The outcome of each cell, by its id.
    """
    of = {cell.id: cell for cell in cells}
    found = {
        cell.id: Outcome("finished", before=True) for cell in cells if ledger.entry_file(cell, directory).is_file()
    }
    for cell_id, outcome in found.items():
        say(f"{cell_id}: {told(of[cell_id], outcome)}")
    jobs: dict[str, Any] = {}
    new: list[Cell] = []
    for cell in cells:
        if cell.id in found:
            continue
        job = _noted(cell, submit)
        if job is not None:
            jobs[cell.id] = job
            say(f"{cell.id}: is job {job.job_id} already")
        else:
            new.append(cell)
    with submit.batch():
        submitted = [submit.submit(Work(cell, directory.absolute(), commands[cell.id])) for cell in new]
    for cell, job in zip(new, submitted, strict=True):
        jobs[cell.id] = job
        cell.failure.unlink(missing_ok=True)
        write_json(_note(cell), {"job_id": job.job_id, "folder": str(job.paths.folder), "kind": type(job).__name__})
        say(f"{cell.id}: job {job.job_id}, prints into {cell.log}")
    progress = Progress(len(cells), max(1, len(jobs)))
    for cell_id in found:
        progress.ends(cell_id)
    for cell_id in jobs:
        progress.begins(cell_id, of[cell_id].recipe)
    while jobs and not stopped():
        for cell_id, job in list(jobs.items()):
            cell = of[cell_id]
            entered = ledger.entry_file(cell, directory).is_file()
            if not entered and not job.done():
                continue
            jobs.pop(cell_id)
            found[cell_id] = outcome = _ended(cell, directory, job)
            progress.ends(cell_id, outcome.seconds if outcome.state == "finished" else None)
            say(f"{cell_id}: {told(cell, outcome)} {progress.text()}")
            _note(cell).unlink(missing_ok=True)
        if jobs and not stopped():
            time.sleep(pause)
    return {cell.id: found.get(cell.id, Outcome("stopped")) for cell in cells}


def _ended(cell: Cell, directory: Path, job: Any) -> Outcome:
    """How the cell of a job ended, from the files that all machines share."""
    path = ledger.entry_file(cell, directory)
    if path.is_file():
        try:
            return Outcome("finished", ledger.read_entry(path).seconds)
        except DataError:
            return Outcome("finished")
    if cell.failure.is_file():
        try:
            failure = ledger.read_failure(cell)
            return Outcome("failed", failure["seconds"], failure["exit_code"], why=str(failure["why"]))
        except DataError:
            return Outcome("failed", why=f"see {cell.log}")
    return Outcome("failed", why=f"job {job.job_id} ended without a result ({job.state}), see {job.paths.stderr}")


def _note(cell: Cell) -> Path:
    """Where the job of a cell is noted."""
    return cell.saves / f"{cell.id}.job.json"


def _noted(cell: Cell, submit: Any) -> Any | None:
    """The job that an earlier start has submitted for a cell, if it is still queued or at work."""
    import json

    try:
        note = json.loads(_note(cell).read_text(encoding="utf-8"))
        kind = _job_class(submit)
        if note["kind"] != kind.__name__:
            return None
        job = kind(folder=note["folder"], job_id=note["job_id"])
        return None if job.done(force_check=True) else job
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _job_class(submit: Any) -> Any:
    """The class of an executor's jobs; an `AutoExecutor` stands before the one that it has chosen."""
    return getattr(getattr(submit, "_executor", submit), "job_class", None)
