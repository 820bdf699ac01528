"""The numbers of a stream of many tasks, one task per line: nobody could read a table with a column per task."""

from __future__ import annotations

import dataclasses

from . import choices, coarse_picture, content, scores, tables, text
from .notes import limit_note
from .run_data import Cell, Run
from .tables import Entry, Table


_MEANINGS = {
    "zero-shot": "before any training (zero-shot)",
    "just trained": "right after the training of the task (just trained)",
    "at the end": "after the whole stream (at the end)",
}


def matrix_table(run: Run, intervals: bool = True) -> Table:
    """The accuracy matrix as `content.matrix_table` makes it, or `task_scores` where there are too many tasks for it."""
    return task_scores(run) if coarse_picture.many(run) else content.matrix_table(run, intervals)


def invalid_table(run: Run) -> Table | None:
    """`content.invalid_table`, or of many tasks the rates of each task in the columns of `task_scores`."""
    return _percentages(run, "invalid_rate") if coarse_picture.many(run) else content.invalid_table(run)


def selection_table(run: Run) -> Table | None:
    """`content.selection_table`, or of many tasks the percentages of each task in the columns of `task_scores`."""
    return _percentages(run, "selected") if coarse_picture.many(run) else content.selection_table(run)


def confusion_table(run: Run) -> Table | None:
    """`choices.confusion_table`, or of many tasks what its own part answered, and the other part that answered most."""
    found = choices.confusion(run) if coarse_picture.many(run) else None
    if found is None:
        return choices.confusion_table(run)
    rows = []
    for task, line in zip(found.tasks, found.shares, strict=True):
        shares = dict(zip(found.chosen, line, strict=True))
        own = shares.pop(task, 0.0)
        other = max(shares, key=lambda name: shares[name], default="")  # the first of equal ones
        most = shares.get(other, 0.0)
        names = (Entry(task), Entry(other if most else text.MISSING))
        rows.append((*names, Entry(text.number(own, 1), tint=own), Entry(text.number(most, 1))))
    head = ("items of", "other part", "by its own part", "by the other part")
    note = "All choices: `routes` in the files `predictions/<row>/<task>.score.json`."
    return Table(head, tuple(rows), left=2, note=_joined(note, limit_note(run)))


def oracle_table(run: Run) -> Table | None:
    """`choices.oracle_table`, of many tasks with one line per task; the last one has the means."""
    table = choices.oracle_table(run)
    if table is None or not coarse_picture.many(run):
        return table
    head = ("task", *(row[0].text for row in table.rows))
    rows = [(Entry(name), *(row[at] for row in table.rows)) for at, name in enumerate(table.head) if at]
    return Table(head, tuple(rows), rules=frozenset({len(rows) - 2}), note=table.note)


def task_scores(run: Run) -> Table:
    """Each task's score before any training, just after its training and at the end, where the run has them.

    Args:
        run: The run.

    Returns:
        One row per task; with ``A_k`` for the row of the matrix that its training led to.
    """
    means = dict(zip([row.trained for row in run.trained_rows], run.seen_means(), strict=False))
    columns = _columns(run)
    with_means = bool(means) and run.joint is None and not run.independent
    rows, words = [], scores.heads(run)
    for index, task in enumerate(run.tasks):
        entries = [Entry(task), Entry(words[index])]
        entries += [Entry(text.number(c[index].score), mark=scores.mark(c[index])) for c in columns.values()]
        rows.append((*entries, *([Entry(text.number(means.get(index)))] if with_means else [])))
    head = ("task", "scorer", *columns, *(["A_k"] if with_means else []))
    note = _joined(_mark_note(run), "The matrix is in `matrix.csv`.")
    return Table(head, tuple(rows), left=2, note=note)


def matrix_tex(run: Run) -> str:
    """`task_scores` for LaTeX, with the number of items of each task.

    Args:
        run: A run of many tasks.

    Returns:
        The source; the caption says what the columns are.
    """
    table = task_scores(run)
    items = [Entry(str(run.n.get(task, text.MISSING))) for task in run.tasks]
    rows = tuple((*row[:2], count, *row[2:]) for row, count in zip(table.rows, items, strict=True))
    means = table.head[-1] == "A_k"
    note = _joined(_mark_note(run), scores.unlike_note(run) if means else "", limit_note(run))
    table = dataclasses.replace(table, head=(*table.head[:2], "items", *table.head[2:]), rows=rows, note=note)
    told = _MEANINGS | ({"at the end": "of one model trained on all tasks at once (at the end)"} if run.joint else {})
    columns = text.listing(told[name] for name in table.head if name in told)
    seen = " $A_k$: mean over the tasks seen so far, right after the training of this one." if means else ""
    whose = f"{text.tex(run.method)} on the stream {text.tex(run.stream)}"
    caption = f"Scores (0--100) of {whose}, one task per row: {columns}.{seen}"
    source = tables.to_tex(table, caption, text.slug((run.stream, run.method)))
    return source.replace(r" & A\_k \\", r" & $A_k$ \\", 1) if means else source


def _columns(run: Run) -> dict[str, list[Cell]]:
    """The cells of every task that stand for its line: before any training, just after its own, and at the end."""
    own = {row.trained: row.cells[row.trained] for row in run.trained_rows if row.trained is not None}
    found: dict[str, list[Cell]] = {}
    if run.zero_shot is not None:
        found["zero-shot"] = list(run.zero_shot.cells)
    if run.joint is None:
        found["just trained"] = [own.get(index, Cell()) for index in range(len(run.tasks))]
    if not run.independent:
        found["at the end"] = list(run.final)
    return found


def _percentages(run: Run, key: str) -> Table | None:
    """A percentage out of ``extra`` of each task that has it, in the columns that have it; ``None`` without any."""
    found = {name: [cell.extra.get(key) for cell in cells] for name, cells in _columns(run).items()}
    found = {name: values for name, values in found.items() if any(value is not None for value in values)}
    lines = [(task, [values[index] for values in found.values()]) for index, task in enumerate(run.tasks)]
    rows = [
        (Entry(task), *(Entry(text.number(value, 1)) for value in values))
        for task, values in lines
        if any(value is not None for value in values)
    ]
    if not rows:
        return None
    return Table(("task", *found), tuple(rows), note=_joined(f"Every cell: `{key}` in `cells.csv`.", limit_note(run)))


def _mark_note(run: Run) -> str:
    """The legend of the marks in `task_scores`."""
    return scores.mark_note(cell for cells in _columns(run).values() for cell in cells)


def _joined(*sentences: str) -> str:
    """Those sentences that say something."""
    return " ".join(sentence for sentence in sentences if sentence)
