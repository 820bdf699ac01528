"""The pictures of a long stream: colours without numbers and lines without names, which nobody could read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import style
from .heat_map import HIGH, LOW, frame, heat_colours, row_names
from .run_data import Run


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Tasks up to which every cell has its number.
NUMBERED = 20
CELL, LARGEST = 0.16, 6.0  # inches
LABELS = 25  # names along an axis


def many(run: Run) -> bool:
    """Whether a run has more tasks than a matrix with numbers can show, as a picture or as a table."""
    return len(run.tasks) > NUMBERED


def matrix(run: Run) -> Figure:
    """Draw the matrix with one square per cell; cells that were not measured are empty.

    Args:
        run: A run with a measured cell.
    """
    tasks = style.names(run.tasks)
    scores = [[float("nan") if one.score is None else one.score for one in row.cells] for row in run.rows]
    figure = squares(scores, row_names(run, tasks), tasks)
    frame(figure, figure.axes[0], run, heat_colours())
    return figure


def squares(values: list[list[float]], rows: list[str], columns: list[str]) -> Figure:
    """Draw numbers from 0 to 100 as squares in colour, with some of the names along both sides.

    Args:
        values: One list per row; what is not a number is empty.
        rows: The names of the rows.
        columns: The names of the columns.
    """
    cell = min(CELL, LARGEST / max(len(columns), len(rows)))
    width, height = cell * len(columns), cell * len(rows)
    figure = style.new_figure(width + 2.0, height + 1.8)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_position((0.2, 0.1, width / figure.get_figwidth(), height / figure.get_figheight()))
    axes.set_facecolor(style.theme().empty)
    axes.imshow(values, cmap=heat_colours(), vmin=LOW, vmax=HIGH, aspect="auto", interpolation="nearest")
    axes.xaxis.tick_top()
    _name(axes, columns, rows)
    return figure


def _name(axes: Axes, columns: list[str], rows: list[str]) -> None:
    """Some of the names along both axes, evenly spread."""
    across, down = _some(len(columns)), _some(len(rows))
    axes.set_xticks(across, [columns[i] for i in across])
    axes.set_yticks(down, [rows[i] for i in down])
    axes.tick_params(length=2, pad=3, labelsize=7, color=style.theme().soft)
    for tick in axes.get_xticklabels():
        tick.set(rotation=55, ha="left", va="bottom", rotation_mode="anchor")


def _some(count: int) -> list[int]:
    return list(range(0, count, -(-count // LABELS)))


def lines(run: Run) -> Figure:
    """Draw one pale line per task from its own training on, and the mean over the tasks that are learned.

    Args:
        run: A run with a measured cell, whose rows follow each other.
    """
    from matplotlib.collections import LineCollection

    theme = style.theme()
    figure = style.new_figure(7.4, 3.6)
    axes = figure.add_axes((0.1, 0.15, 0.85, 0.7))
    steps = [row for row in run.rows if row.trained is not None]
    means: list[tuple[int, float]] = []
    learned: list[int] = []
    for x, row in enumerate(steps):
        learned.append(row.trained or 0)
        found = [score for task in learned if (score := row.cells[task].score) is not None]
        if found:
            means.append((x, sum(found) / len(found)))
    tasks = [
        [(x, c) for x, row in enumerate(steps[first:], first) if (c := row.cells[task].score) is not None]
        for first, task in enumerate(learned)
    ]
    measured = [points for points in tasks if points]  # matplotlib 3.11 refuses lines without points
    axes.add_collection(LineCollection(measured, colors=theme.soft, linewidths=0.6, alpha=0.35, zorder=2))
    new = [(x, c) for x, row in enumerate(steps) if (c := row.cells[learned[x]].score) is not None]
    for points, colour, words in (
        (means, theme.colours[0], "mean of the tasks learned so far"),
        (new, theme.colours[1], "the task just trained"),
    ):
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, label=words, zorder=4)
    axes.plot([], [], color=theme.soft, linewidth=0.8, label="each task")
    axes.set_ylim(-3, 103)
    axes.set_xlim(0, max(len(steps) - 1, 1))
    names, shown = style.names(run.tasks), _some(len(steps))
    axes.set_xticks(shown, [names[learned[i]] for i in shown])
    for tick in axes.get_xticklabels():
        tick.set(rotation=55, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_xlabel("after training on", fontweight="bold")
    axes.set_ylabel("score", fontweight="bold")
    axes.yaxis.grid(True, color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, fontsize=7.5, borderaxespad=0.1)
    axes.set_title(style.title(run.method, run.stream), pad=20, fontsize=11)
    return figure
