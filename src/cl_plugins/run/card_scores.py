"""The scores of a run in its model card: the accuracy matrix, or of many tasks one line per task."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.matrix import AccuracyMatrix
from ..records.results import ZERO_SHOT, row_name
from .base_card import plain


def table(matrix: AccuracyMatrix, known: Sequence[str]) -> tuple[str, str]:
    """A sentence and a table in Markdown.

    Args:
        matrix: The matrix.
        known: The rows up to the one of the model, without the zero-shot one; at least one.
    """
    from ..report.coarse_picture import NUMBERED

    if len(matrix.tasks) > NUMBERED:
        return "Scores from 0 to 100, one task per row.", _by_task(matrix, known)
    return "Scores from 0 to 100. Each row is the model after one more task.", _by_row(matrix, known)


def _by_row(matrix: AccuracyMatrix, known: Sequence[str]) -> str:
    """One column per task."""
    heads = [f"{plain(task)} ({plain(matrix.scorers.get(task, 'score'))})" for task in matrix.tasks]
    lines = [f"| after training on | {' | '.join(heads)} |", "| --- " + "| ---: " * len(heads) + "|"]
    for row in [ZERO_SHOT, *known]:
        cells = [matrix.get(row, task) for task in matrix.tasks]
        label = "zero-shot" if row == ZERO_SHOT else row.removeprefix("after_")
        if any(cell is not None for cell in cells):
            lines.append(f"| {plain(label)} | {' | '.join(map(_shown, cells))} |")
    return "\n".join(lines)


def _by_task(matrix: AccuracyMatrix, known: Sequence[str]) -> str:
    """Each task before any training and right after its own, where that was measured, and with this model."""
    columns = {
        "zero-shot": [matrix.get(ZERO_SHOT, task) for task in matrix.tasks],
        "just trained": [matrix.get(row_name(t), t) if row_name(t) in known else None for t in matrix.tasks],
        "with this model": [matrix.get(known[-1], task) for task in matrix.tasks],
    }
    last = "with this model"
    columns = {name: cells for name, cells in columns.items() if name == last or any(c is not None for c in cells)}
    lines = [f"| task | scorer | {' | '.join(columns)} |", "| --- | --- " + "| ---: " * len(columns) + "|"]
    for index, task in enumerate(matrix.tasks):
        cells = [_shown(values[index]) for values in columns.values()]
        if any(cells):
            lines.append(f"| {plain(task)} | {plain(matrix.scorers.get(task, 'score'))} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Nothing was measured with this model."


def _shown(score: float | None) -> str:
    return f"{score:.2f}" if score is not None else ""
