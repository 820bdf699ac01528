"""Runs at an earlier point: each as if its stream had ended after the row of one task.

The point is "after this task" in each run's own order, so that runs of other orders have learned other tasks by then; the
tasks that all of them have learned are compared. A joint model has no earlier point: it is taken as it is, on these tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from ..base.errors import Problem, RunStateError
from .notes import counted
from .run_data import Run
from .shared_tasks import left_out, on_tasks
from .text import listing


def problems(run: Run, after: str) -> list[Problem]:
    """Why a run has no row of a task; nothing where it has or may still get one.

    Args:
        run: The run.
        after: Name of the task.
    """
    if after in run.learned:
        return []
    told = f"is only tested on {after!r}" if after in run.tasks else f"has no task {after!r}"
    what = f"{told}; it learns {counted(run.learned, listing(run.learned))}."
    return [Problem(str(run.path), what, "Choose a task that every run learns, or leave this run out.")]


def up_to_row(runs: Sequence[Run], after: str) -> list[Run]:
    """The runs as they stood after a task; joint ones as they are.

    Args:
        runs: Runs without `problems`.
        after: Name of the task.

    Returns:
        The runs in their order. One that has not measured the row completely is not finished there either.

    Raises:
        RunStateError: Every run is a joint one.
    """
    if all(run.joint is not None for run in runs):
        what = "every run learned all of its tasks at once, so that no point of a stream can be compared."
        raise RunStateError(Problem(f"after {after}", what, "Compare these runs at their end."))
    return [run if run.joint is not None else up_to(run, after) for run in runs]


def up_to(run: Run, after: str) -> Run:
    """A run as if its stream had ended after a task: the rows and columns of the tasks learned until then.

    Tasks that are only tested keep their columns, because they are tested in every row. Probes keep the rows until then.
    What belongs to the end of the whole run (its seconds, its items answered with the true task's part) is left out.

    Args:
        run: A run that learns this task.
        after: Name of the task.

    Returns:
        The smaller run, with the metrics of the smaller matrix; the run itself where nothing comes later.
    """
    end = run.tasks.index(after)
    until = [task for index, task in enumerate(run.tasks) if index <= end or task in run.test_only]
    if len(until) == len(run.tasks):
        return run
    smaller = on_tasks(run, until)
    names = smaller.row_names
    probes = {
        name: probe.model_copy(update={"rows": {row: part for row, part in probe.rows.items() if row in names}})
        for name, probe in run.probes.items()
    }
    info = {key: value for key, value in run.info.items() if key != "seconds"}
    return dataclasses.replace(smaller, probes=probes, info=info, oracle={})


def remarks(
    runs: Sequence[Run], earlier: Sequence[Run], names: Sequence[str], shared: Sequence[str], after: str
) -> Iterator[str]:
    """What a reader has to know of a comparison at an earlier point.

    Args:
        runs: The runs with all of their tasks.
        earlier: The same runs `up_to_row`.
        names: Their names.
        shared: The tasks of the comparison.
        after: Name of the task.
    """
    later = (
        "; the later tasks are left out" if any(cut is not run for run, cut in zip(runs, earlier, strict=True)) else ""
    )
    yield f"Every run is taken as it stood after '{after}'{later}."
    streams = [(cut, name) for cut, name in zip(earlier, names, strict=True) if cut.joint is None]
    yield from left_out([cut for cut, _ in streams], [name for _, name in streams], shared, "have learned by then")
    more: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        extra = [task for task in run.learned if task not in shared]
        if run.joint is not None and extra:
            more.setdefault(counted(extra, listing(extra)), []).append(name)
    for tasks, joint in more.items():
        yield f"Joint models learned all tasks at once, and so {tasks} too: {listing(joint)}."
