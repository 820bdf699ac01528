"""The scores of a stream of many tasks, one task per line: nobody could read its matrix on a page or in a terminal."""

from __future__ import annotations

from . import coarse_picture, content, scores, text
from .run_data import Cell, Run
from .tables import Entry, Table


def matrix_table(run: Run, intervals: bool = True) -> Table:
    """The accuracy matrix as `content.matrix_table` makes it, or `task_scores` where there are too many tasks for it."""
    return task_scores(run) if coarse_picture.many(run) else content.matrix_table(run, intervals)


def task_scores(run: Run) -> Table:
    """Each task's score before any training, just after its training and at the end, where the run has them.

    Args:
        run: The run.

    Returns:
        One row per task; with ``A_k`` for the row of the matrix that its training led to.
    """
    own = {row.trained: row.cells[row.trained] for row in run.trained_rows if row.trained is not None}
    means = dict(zip([row.trained for row in run.trained_rows], run.seen_means(), strict=False))
    columns: dict[str, list[Cell]] = {}
    if run.zero_shot is not None:
        columns["zero-shot"] = list(run.zero_shot.cells)
    if run.joint is None:
        columns["just trained"] = [own.get(index, Cell()) for index in range(len(run.tasks))]
    if not run.independent:
        columns["at the end"] = list(run.final)
    with_means = bool(means) and run.joint is None and not run.independent
    rows, words = [], scores.heads(run)
    for index, task in enumerate(run.tasks):
        entries = [Entry(task), Entry(words[index])]
        entries += [Entry(text.number(c[index].score), mark=scores.mark(c[index])) for c in columns.values()]
        rows.append((*entries, *([Entry(text.number(means.get(index)))] if with_means else [])))
    head = ("task", "scorer", *columns, *(["A_k"] if with_means else []))
    shown = [cell for cells in columns.values() for cell in cells]
    note = " ".join(part for part in (scores.mark_note(shown), "The matrix is in `matrix.csv`.") if part)
    return Table(head, tuple(rows), left=2, note=note)
