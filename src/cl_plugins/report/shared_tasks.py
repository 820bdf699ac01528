"""Runs over different tasks: each as it stands on the tasks that all of them have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from ..evaluation.matrix import AccuracyMatrix
from ..evaluation.metrics import continual_metrics
from .run_data import Metric, Run
from .text import listing


def shared_tasks(runs: Sequence[Run]) -> tuple[str, ...]:
    """The tasks that all runs have, in the order of the first."""
    return tuple(task for task in runs[0].tasks if all(task in run.tasks for run in runs))


def on_tasks(run: Run, tasks: Sequence[str]) -> Run:
    """A run on some of its tasks: their columns and the rows after them, with the metrics of this smaller matrix.

    The last row is the one after the last of these tasks, so that a task that was learned later does not count.

    Args:
        run: The run.
        tasks: Some of its tasks, in any order.
    """
    columns = [index for index, task in enumerate(run.tasks) if task in tasks]
    if len(columns) == len(run.tasks):
        return run
    kept = tuple(run.tasks[index] for index in columns)
    rows = tuple(
        dataclasses.replace(
            row,
            trained=None if row.trained is None else columns.index(row.trained),
            cells=tuple(row.cells[index] for index in columns),
        )
        for row in run.rows
        if row.trained is None or row.trained in columns
    )
    smaller = dataclasses.replace(
        run,
        tasks=kept,
        scorers={task: run.scorers[task] for task in kept if task in run.scorers},
        n={task: run.n[task] for task in kept if task in run.n},
        rows=rows,
        test_only=tuple(task for task in run.test_only if task in kept),
    )
    return dataclasses.replace(smaller, metrics=_metrics(smaller) if run.metrics else {})


def left_out(runs: Sequence[Run], names: Sequence[str], shared: Sequence[str], have: str = "have") -> Iterator[str]:
    """What a reader has to know of the tasks that not all runs have.

    Args:
        runs: The runs with all of their tasks.
        names: Their names.
        shared: The tasks of the comparison.
        have: What all runs do with these tasks.
    """
    dropped = list(dict.fromkeys(task for run in runs for task in run.tasks if task not in shared))
    if not dropped:
        return
    yield (
        f"Only the tasks that all runs {have} are compared: {listing(shared)}. Left out: {listing(dropped)}. Metrics are "
        "computed on the matrix of the compared tasks, up to the last of them."
    )
    before: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        last = max(run.tasks.index(task) for task in shared)
        trained = [task for task in run.learned if task not in shared]
        extra = trained if run.joint is not None else [task for task in trained if run.tasks.index(task) < last]
        if extra and not run.independent:
            before.setdefault(listing(extra), []).append(name)
    for tasks, names in before.items():
        yield f"{tasks} {'was' if ' and ' not in tasks else 'were'} also learned before the scores were taken: {listing(names)}."


def _metrics(run: Run) -> dict[str, Metric]:
    """The metrics of the run's rows."""
    zero_shot = run.zero_shot
    matrix = AccuracyMatrix(
        stream=run.stream,
        method=run.method,
        tasks=list(run.tasks),
        scorers=dict(run.scorers),
        n=dict(run.n),
        zero_shot=[cell.score for cell in zero_shot.cells] if zero_shot is not None else [],
        scores=[[cell.score for cell in row.cells] for row in run.trained_rows],
        rows=[row.name for row in run.trained_rows],
        independent=run.independent,
        test_only=list(run.test_only),
    )
    return {
        key: Metric(key, metric.value, tuple(metric.values or ()), metric.reason or "", metric.divisor, metric.formula)
        for key, metric in continual_metrics(matrix).items()
    }
