"""The numbers that a group of runs and a published entry both have: cells, printed metrics, and our metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..published import Cells, Measure, PublishedEntry, PublishedTable, Source, cells_of, derive
from .groups import Member, summarise
from .run_data import Cell, Run


@dataclass(frozen=True)
class Line:
    """One number of both sides.

    Attributes:
        place: What it is.
        ours: Our score, or the mean over our runs.
        interval: Our 95 % interval: over the test items for one run, over the runs for several.
        theirs: What is printed, or follows from what is printed.
        printed: Whether it is printed.
    """

    place: str
    ours: float | None
    interval: tuple[float, float] | None
    theirs: float
    printed: bool = True

    @property
    def difference(self) -> float | None:
        """Ours minus theirs."""
        return None if self.ours is None else self.ours - self.theirs

    @property
    def inside(self) -> bool | None:
        """Whether theirs lies inside our interval; ``None`` without one."""
        return None if self.interval is None else self.interval[0] <= self.theirs <= self.interval[1]


def compared_lines(
    source: Source, table: PublishedTable, entry: PublishedEntry, members: Sequence[Member]
) -> list[Line]:
    """Return every number that both sides have.

    Args:
        source: The source of the entry.
        table: The table of the entry.
        entry: The entry.
        members: Runs that form one group; they have the tasks of the table in its order.
    """
    return [*_cells(table, entry, members), *_printed(source, table, entry, members), *_derived(table, entry, members)]


def _value(cell: Cell, measure: Measure) -> tuple[float | None, tuple[float, float] | None]:
    """A cell's score (or the metric that the source prints) with its interval."""
    if measure.metric is None:
        return cell.score, cell.interval
    value = (cell.extra.get("metrics") or {}).get(measure.metric)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None, None
    return float(value), cell.interval if value == cell.score else None


def _pooled(
    values: Sequence[float | None], interval: tuple[float, float] | None = None
) -> tuple[float | None, tuple[float, float] | None]:
    """One run's value with its interval, or mean and t-interval over several.

    Runs that agree to the last digit (zero-shot scores do not depend on the seed) keep the interval of one of them.
    """
    if len(set(values)) == 1:
        return values[0], interval
    summary = summarise(values)
    if summary.mean is None or summary.half_width is None:
        return summary.mean, None
    return summary.mean, (summary.mean - summary.half_width, summary.mean + summary.half_width)


def _cells(table: PublishedTable, entry: PublishedEntry, members: Sequence[Member]) -> list[Line]:
    """Zero-shot scores, then the matrix, or what there is of it."""
    count = len(table.tasks)
    wanted: list[tuple[str, str, int, float | None]] = []
    if entry.zero_shot:
        wanted += [("zero-shot", "zero_shot", j, value) for j, value in enumerate(entry.zero_shot)]
    if entry.matrix:
        for k, scores in enumerate(entry.matrix):
            wanted += [(f"after {table.tasks[k]}", f"after_{table.tasks[k]}", j, v) for j, v in enumerate(scores)]
    elif entry.final:
        wanted += [("final", "final", j, value) for j, value in enumerate(entry.final)]
    elif entry.diagonal:
        wanted += [("own", "own", j, value) for j, value in enumerate(entry.diagonal)]
    lines = []
    for label, row, j, theirs in wanted if count else ():
        if theirs is None:
            continue
        measure = table.measures[table.tasks[j]]
        own = [_value(cell, measure) if (cell := _cell(m.run, row, j)) else (None, None) for m in members]
        ours, interval = _pooled([value for value, _ in own], own[0][1])
        if ours is not None:
            words = {"own": f"{table.tasks[j]}, right after it", "final": f"{table.tasks[j]}, at the end"}
            lines.append(Line(words.get(label, f"{table.tasks[j]}, {label}"), ours, interval, theirs))
    return lines


def _cell(run: Run, row: str, column: int) -> Cell | None:
    """A cell of a run by the name of its row, or of ``final`` or ``own``."""
    if row == "final":
        return run.final[column]
    if row == "own":
        row = f"after_{run.tasks[column]}"
    return next((found.cells[column] for found in run.rows if found.name == row), None)


def _own_cells(run: Run, table: PublishedTable) -> Cells:
    """A run's scores in the form that metrics are derived from."""

    def scores(cells: Sequence[Cell]) -> list[float | None]:
        return [_value(cell, table.measures[t])[0] for t, cell in zip(run.tasks, cells, strict=True)]

    rows = {row.trained: scores(row.cells) for row in run.trained_rows if row.trained is not None}
    empty: list[float | None] = [None] * len(run.tasks)
    sequence = [] if run.independent or run.joint else [rows.get(k, empty) for k in range(len(run.tasks))]
    return Cells(
        run.tasks,
        scores(run.zero_shot.cells) if run.zero_shot else (),
        sequence,
        scores(run.final),
        [rows[k][k] if k in rows else None for k in range(len(run.tasks))],
    )


def _printed(source: Source, table: PublishedTable, entry: PublishedEntry, members: Sequence[Member]) -> list[Line]:
    """The metrics that the source prints, ours by the source's own definition."""
    lines = []
    for key, value in entry.printed.items():
        metric = source.metrics[key]
        printed = value if isinstance(value, tuple) else (value,)
        own = [derive(metric.kind, _own_cells(m.run, table).truncated(metric.truncate)) for m in members]
        for index, theirs in enumerate(printed):
            ours, interval = _pooled([row[index] if index < len(row) else None for row in own])
            if ours is not None:
                where = f" after {table.tasks[index]}" if isinstance(value, tuple) else ""
                lines.append(Line(f"{metric.label}{where}, printed", ours, interval, theirs))
    return lines


def _derived(table: PublishedTable, entry: PublishedEntry, members: Sequence[Member]) -> list[Line]:
    """Our metrics, also computed from their cells; nothing is cut."""
    lines = []
    labels = (("last", "Last"), ("average", "MAA"), ("mft", "MFT"), ("bwt", "BWT (T−1)"))
    for kind, label in labels:
        (theirs,) = derive(kind, cells_of(table, entry))
        ours, interval = _pooled([derive(kind, _own_cells(m.run, table))[0] for m in members])
        if theirs is not None and ours is not None:
            lines.append(Line(f"{label}, from the cells", ours, interval, theirs, printed=False))
    return lines
