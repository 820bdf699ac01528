"""``matrix.png`` and ``matrix.pdf``: the accuracy matrix as a heat map with numbers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from . import coarse_picture, scores, style
from .heat_map import HIGH, LOW, frame, heat_colours, ink_on, row_names
from .run_data import Cell, Run
from .text import MISSING, number, wrap


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ZERO_SHOT_GAP = 0.28


def matrix_picture(run: Run) -> style.Picture:
    """Draw the accuracy matrix.

    One row per trained task and one column per test; the zero-shot row is separate, above them, cells that were not
    measured are hatched, and the test of the task that had just been trained is framed. A score that a trivial answer
    reaches as well is marked. A stream of many tasks gets colours without numbers, see `coarse_picture`.

    Args:
        run: The run; partial matrices and one joint row are fine.
    """
    return style.render(partial(_draw, run))


def _draw(run: Run) -> Figure:
    if not run.rows:
        return style.message(style.title(run.method, run.stream), "Nothing has been evaluated yet.")
    if coarse_picture.many(run):
        return coarse_picture.matrix(run)
    tasks = style.names(run.tasks)
    count = len(tasks)
    small = count > 6
    slanted = max(len(name) for name in tasks) > (13 if not small else 7)
    places = _places(run)
    bottom = places[-1] + 0.5 if places else 0.5
    cell_width, cell_height = (1.12, 0.62) if not small else (0.66, 0.5)
    figure = style.new_figure(max(2.2, cell_width * count) + 2.0, cell_height * (bottom + 0.5) + 1.3)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    # The axes are given the size of the cells exactly; savefig's tight box then adds the room the labels need.
    width, height = cell_width * count, cell_height * (bottom + 0.5)
    axes.set_position((0.2, 0.1, width / figure.get_figwidth(), height / figure.get_figheight()))
    colours = heat_colours()
    for row, place in zip(run.rows, places, strict=True):
        for column, cell in enumerate(row.cells):
            _draw_cell(axes, colours, cell, column, place, small)
        if row.trained is not None:
            from matplotlib.patches import Rectangle

            axes.add_patch(
                Rectangle(
                    (row.trained - 0.47, place - 0.47),
                    0.94,
                    0.94,
                    fill=False,
                    edgecolor=style.theme().ink,
                    linewidth=1.6,
                )
            )
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(bottom, -0.5)
    axes.set_yticks(places, row_names(run, tasks))
    axes.set_xticks(range(count), tasks)
    frame(figure, axes, run, colours)
    axes.tick_params(length=0, pad=5)
    if slanted:
        for tick in axes.get_xticklabels():
            tick.set(rotation=35, ha="left", va="bottom", rotation_mode="anchor")
    for column, task in enumerate(run.tasks):
        axes.text(
            column,
            bottom + 0.08,
            _detail(run, task),
            ha="center",
            va="top",
            color=style.theme().soft,
            fontsize=6 if small else 7,
            linespacing=1.25,
        )
    note = scores.mark_note(cell for row in run.rows for cell in row.cells)
    if note:
        below = bottom + (0.62 if small else 0.72) + (0.2 if run.limits else 0)
        axes.text(-0.5, below, _lines(note, width), fontsize=7, color=style.theme().soft, va="top", linespacing=1.3)
    return figure


def _lines(note: str, width: float) -> str:
    """A sentence below the picture, in lines as long as it is wide; a letter of this size takes about 0.065 inches."""
    return wrap(note, max(32, int(width / 0.065)))


def _places(run: Run) -> list[float]:
    """The height of each row, from the top; a gap sets the zero-shot row apart."""
    gap = ZERO_SHOT_GAP if run.zero_shot is not None and len(run.rows) > 1 else 0.0
    return [index + (gap if index else 0.0) for index in range(len(run.rows))]


def _detail(run: Run, task: str) -> str:
    """The small print below a column: scorer and number of items."""
    scorer = scores.scorer_word(run.scorers.get(task, ""))
    items = f"n = {run.n[task]}" if task in run.n else ""
    return "\n".join(part for part in (scorer, items, "limited" if task in run.limits else "") if part)


def _draw_cell(axes: Axes, colours: Any, cell: Cell, column: int, place: float, small: bool) -> None:
    """One cell: its colour, its number and, where there is room, its interval."""
    from matplotlib.patches import Rectangle

    theme = style.theme()
    box: dict[str, Any] = {"xy": (column - 0.47, place - 0.47), "width": 0.94, "height": 0.94, "linewidth": 0}
    if cell.score is None:
        axes.add_patch(Rectangle(**box, facecolor=theme.empty, hatch="////", edgecolor=theme.hatch))
        axes.text(column, place, MISSING, ha="center", va="center", color=theme.soft, fontsize=9)
        return
    colour = colours((cell.score - LOW) / (HIGH - LOW))
    axes.add_patch(Rectangle(**box, facecolor=colour))
    ink = ink_on(colour)
    show_interval = cell.interval is not None and not small
    axes.text(
        column,
        place - (0.13 if show_interval else 0.0),
        scores.mark(cell) + number(cell.score, 1),
        ha="center",
        va="center",
        color=ink,
        fontsize=8 if small else 10,
    )
    if show_interval and cell.interval is not None:
        ends = f"{number(cell.interval[0], 1)} to {number(cell.interval[1], 1)}"
        axes.text(column, place + 0.22, ends, ha="center", va="center", color=ink, fontsize=6.5)
