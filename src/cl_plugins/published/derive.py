"""Compute the metrics that a source prints from its cells, or from a run's scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation import metrics
from .records import PublishedEntry, PublishedTable


Row = Sequence[float | None]


@dataclass(frozen=True)
class Cells:
    """Scores from which metrics are derived, of a source or of a run; 0-100.

    Attributes:
        tasks: Names in the order of training.
        zero_shot: Before any training; empty where unknown.
        matrix: Row k with (at least) the scores on the first k tasks after task k; empty where unknown.
        final: After the last task; empty where unknown.
        diagonal: Right after each task's own training; empty where unknown.
    """

    tasks: tuple[str, ...]
    zero_shot: Row = ()
    matrix: Sequence[Row] = ()
    final: Row = ()
    diagonal: Row = ()

    def truncated(self, tasks: Sequence[str]) -> Cells:
        """The scores of some tasks cut to whole numbers, as Python's ``int`` does."""

        def cut(row: Row) -> Row:
            pairs = zip(self.tasks, row, strict=False)
            return [math.trunc(v) if v is not None and task in tasks else v for task, v in pairs]

        return Cells(
            self.tasks,
            cut(self.zero_shot),
            [cut(row) for row in self.matrix],
            cut(self.final),
            cut(self.diagonal),
        )


def cells_of(table: PublishedTable, entry: PublishedEntry) -> Cells:
    """Return the cells of an entry."""
    return Cells(table.tasks, entry.zero_shot, entry.matrix, entry.final, entry.diagonal)


def derive(kind: str | None, cells: Cells) -> tuple[float | None, ...]:
    """Compute a metric from cells.

    Args:
        kind: One of `records.KINDS`.
        cells: The scores.

    Returns:
        T numbers for ``a_k`` (``None`` where a cell is missing), one otherwise.
    """
    count = len(cells.tasks)
    square = [[*row[: k + 1], *[None] * (count - k - 1)] for k, row in enumerate(cells.matrix)]
    if kind == "a_k":
        if square:
            return tuple(metrics.a_k(square))
        return (*[None] * (count - 1), mean(cells.final)) if count else ()
    if kind == "last":
        return (mean(cells.final),)
    if kind == "mft":
        return (mean(cells.diagonal),)
    if kind == "zero_shot_mean":
        return (mean(cells.zero_shot),)
    formula = {"average": metrics.average, "bwt": metrics.bwt, "mfn_minus_mft": metrics.mfn_minus_mft}.get(kind or "")
    return (formula(square),) if formula and square else (None,)


def mean(row: Row) -> float | None:
    """Return the mean, or ``None`` where the row is empty or a number is missing."""
    known = [value for value in row if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(row) else None
