"""What a model that finds out the task has chosen, and what the wrong choices cost, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import text
from .content import latest
from .notes import limit_note
from .run_data import Cell, Run
from .tables import Entry, Table


@dataclass(frozen=True)
class Confusion:
    """Which tasks' parts answered each task's items in the last row.

    Attributes:
        tasks: The tasks whose items were answered.
        chosen: The tasks whose parts answered.
        shares: For each of ``tasks`` the percentage of its items by ``chosen``.
    """

    tasks: tuple[str, ...]
    chosen: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]


def confusion(run: Run) -> Confusion | None:
    """The choices of the last row; ``None`` where the model chooses nothing."""
    counts: dict[str, dict[str, int]] = {}
    for index, task in enumerate(run.tasks):
        found = latest(run, index).extra.get("routes")
        if isinstance(found, dict) and found:
            counts[task] = found
    if not counts:
        return None
    chosen = [task for task in run.tasks if any(task in found for found in counts.values())]
    chosen += sorted({name for found in counts.values() for name in found} - set(chosen))
    shares = [tuple(100 * found.get(name, 0) / sum(found.values()) for name in chosen) for found in counts.values()]
    return Confusion(tuple(counts), tuple(chosen), tuple(shares))


def confusion_table(run: Run) -> Table | None:
    """`confusion` as a table."""
    found = confusion(run)
    if found is None:
        return None
    rows = [
        (
            Entry(task),
            *(Entry(text.number(s, 1), strong=n == task, tint=s) for n, s in zip(found.chosen, shares, strict=True)),
        )
        for task, shares in zip(found.tasks, found.shares, strict=True)
    ]
    return Table(("items of", *found.chosen), tuple(rows), note=limit_note(run))


def oracle_table(run: Run) -> Table | None:
    """The last row beside the answers of the true tasks' parts; ``None`` without `cl.eval.oracle`."""
    tasks = [index for index, task in enumerate(run.tasks) if task in run.oracle and run.trained_rows]
    if not tasks:
        return None
    chosen = [run.trained_rows[-1].cells[index] for index in tasks]
    told = [run.oracle[run.tasks[index]] for index in tasks]
    lines = [("chosen by the model", chosen), ("true task given", told)]
    rows = []
    for label, cells in lines:
        entries = [Entry(text.number(c.score), detail=text.interval(c.interval), tint=c.score) for c in cells]
        rows.append((Entry(label), *entries, Entry(text.number(_mean(cells)))))
    lost = [
        None if a.score is None or b.score is None else b.score - a.score for a, b in zip(chosen, told, strict=True)
    ]
    known = [value for value in lost if value is not None]
    mean = sum(known) / len(known) if len(known) == len(lost) else None
    rows.append((Entry("lost by the choice"), *(Entry(text.number(v)) for v in lost), Entry(text.number(mean))))
    head = ("last row", *(run.tasks[index] for index in tasks), "mean")
    return Table(head, tuple(rows), rules=frozenset({1}), note=limit_note(run))


def _mean(cells: Sequence[Cell]) -> float | None:
    """Mean score; ``None`` if one is missing."""
    scores = [cell.score for cell in cells if cell.score is not None]
    return sum(scores) / len(scores) if len(scores) == len(cells) else None
