"""``confusion.png`` and ``confusion.pdf``: which task's part answered the items of each task, as a heat map with numbers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from . import coarse_picture, style
from .choices import Confusion
from .heat_map import colour_bar, heat_colours, ink_on
from .run_data import Run
from .text import number


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def confusion_picture(run: Run, found: Confusion) -> style.Picture:
    """Draw the choices of the last row.

    One row per task whose items were answered, one column per task whose part answered; the right choice is framed, and
    choices that never occur have no number. Of many tasks there are colours only, see `coarse_picture`.

    Args:
        run: The run.
        found: From `choices.confusion`.
    """
    return style.render(partial(_draw, run, found))


def _draw(run: Run, found: Confusion) -> Figure:
    rows, columns = style.names(found.tasks), style.names(found.chosen)
    if coarse_picture.many(run):  # also where few of them are trained: the page has one text for both
        figure = coarse_picture.squares([[s or float("nan") for s in line] for line in found.shares], rows, columns)
    else:
        figure = _numbered(found, rows, columns)
    axes = figure.axes[0]
    axes.xaxis.set_label_position("top")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("answered by the part of", labelpad=8, fontweight="bold")
    axes.set_ylabel("items of", labelpad=8, fontweight="bold")
    colour_bar(figure, axes, heat_colours())
    axes.set_title(f"{style.title(run.method, run.stream)}: choices in %", pad=14)
    return figure


def _numbered(found: Confusion, rows: list[str], columns: list[str]) -> Figure:
    """One cell per choice, with its number."""
    small = len(columns) > 6
    slanted = max(map(len, columns)) > (13 if not small else 7)
    cell_width, cell_height = (1.12, 0.62) if not small else (0.66, 0.5)
    width, height = cell_width * len(columns), cell_height * len(rows)
    figure = style.new_figure(max(2.2, width) + 2.0, height + 1.3)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_position((0.2, 0.1, width / figure.get_figwidth(), height / figure.get_figheight()))
    colours = heat_colours()
    for place, (task, shares) in enumerate(zip(found.tasks, found.shares, strict=True)):
        for column, (name, share) in enumerate(zip(found.chosen, shares, strict=True)):
            _draw_cell(axes, colours, share, column, place, small)
            if name == task:
                _frame(axes, column, place)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=5)
    if slanted:
        for tick in axes.get_xticklabels():
            tick.set(rotation=35, ha="left", va="bottom", rotation_mode="anchor")
    return figure


def _draw_cell(axes: Axes, colours: Any, share: float, column: int, place: int, small: bool) -> None:
    """One cell: its colour and, if it is not 0, its number."""
    from matplotlib.patches import Rectangle

    colour = colours(share / 100)
    axes.add_patch(
        Rectangle(
            (column - 0.47, place - 0.47), 0.94, 0.94, linewidth=0, facecolor=colour if share else style.theme().empty
        )
    )
    if share:
        size = 8 if small else 10
        axes.text(column, place, number(share, 1), ha="center", va="center", color=ink_on(colour), fontsize=size)


def _frame(axes: Axes, column: int, place: int) -> None:
    from matplotlib.patches import Rectangle

    box = Rectangle((column - 0.47, place - 0.47), 0.94, 0.94, fill=False, edgecolor=style.theme().ink, linewidth=1.6)
    axes.add_patch(box)
