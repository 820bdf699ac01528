"""``forgetting.png`` and ``forgetting.pdf``: the score of each task over the stream, or bars where there is no stream to go along."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from . import coarse_picture, style
from .run_data import Cell, Row, Run
from .scores import MARK, mark_note, trivial_score
from .scores import mark as mark_of
from .text import number, wrap


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def stream_picture(run: Run) -> style.Picture:
    """Draw the score of each task over the stream.

    One line per task from the zero-shot point on, with its 95 % interval as a band; a ring marks where the task itself
    was trained, dots bridge points that were not measured. For a joint model, and for independent models, there is no
    order of events: bars of the scores take the place of the lines. A last score that a trivial answer reaches as well
    is marked. A stream of many tasks has pale lines without names, see `coarse_picture`.

    Args:
        run: The run.
    """
    return style.render(partial(_bars if run.joint is not None or run.independent else _lines, run))


def _lines(run: Run) -> Figure:
    if all(cell.score is None for row in run.rows for cell in row.cells):
        return style.message(style.title(run.method, run.stream), "Nothing has been evaluated yet.")
    if coarse_picture.many(run):
        return coarse_picture.lines(run)
    tasks = style.names(run.tasks)
    rows = run.rows
    count = len(tasks)
    height = max(3.3, 0.27 * count + 1.2)
    figure = style.new_figure(min(7.0, 2.6 + 0.85 * len(rows)) if len(rows) < 8 else 7.4, height)
    axes = figure.add_axes((0.1, 0.15, 0.7, 0.75))
    ends: dict[int, list[tuple[int, Cell]]] = {}
    for task in range(count):
        column = [(x, row.cells[task]) for x, row in enumerate(rows)]
        points = [(x, cell.score, cell) for x, cell in column if cell.score is not None]
        if points:
            _line(axes, task, points, rows, crowded=count > 6)
            ends.setdefault(points[-1][0], []).append((task, points[-1][2]))
    right = len(rows) - 1
    low, high = -3.0, 103.0
    axes.set_ylim(low, high)
    axes.set_xlim(-0.15, max(right, 0.5) + 0.15)
    gap = (high - low) * 0.16 / (0.75 * height)
    for x, finished in ends.items():
        # Where a line ends before the picture does, its name is still drawn at its end.
        _name_ends(axes, x, x + (0.15 + 0.03 * right if x == right else 0.06 * max(right, 1)), finished, tasks, gap)
    zero_shot = "zero-shot" if len(rows) < 8 else "zero-\nshot"
    labels = [zero_shot if row.trained is None else tasks[row.trained] for row in rows]
    axes.set_xticks(range(len(rows)), labels)
    # A letter of this size takes about 0.078 inches.
    room = 0.7 * figure.get_figwidth() / len(rows) / 0.078
    if max(len(line) for label in labels for line in label.split("\n")) > room:
        for tick in axes.get_xticklabels():
            tick.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel("after training on", fontweight="bold")
    axes.set_ylabel("score on each task", fontweight="bold")
    axes.yaxis.grid(True, color=style.theme().grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=2)
    _title(axes, run)
    _legend(figure, axes, run, any(_gaps(run, task) for task in range(count)))
    _note(axes, [cell for finished in ends.values() for _, cell in finished])
    return figure


def _name_ends(axes: Axes, x: int, start: float, ends: list[tuple[int, Cell]], tasks: list[str], gap: float) -> None:
    """Names and last scores of the lines that end at ``x``, moved apart, each connected to the end of its line."""
    low, high = axes.get_ylim()
    places = style.spread([cell.score or 0.0 for _, cell in ends], gap, low, high)
    for (task, cell), place in zip(ends, places, strict=True):
        colour = style.theme().colours[task % len(style.theme().colours)]
        lead = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.55, "shrinkA": 0, "shrinkB": 4}
        axes.annotate("", xy=(x, cell.score or 0.0), xytext=(start, place), arrowprops=lead, annotation_clip=False)
        label = f"{tasks[task]}  {mark_of(cell)}{number(cell.score, 1)}"
        axes.text(
            start + 0.015 * (axes.get_xlim()[1] - axes.get_xlim()[0]),
            place,
            label,
            color=_print(colour),
            va="center",
            fontsize=8,
            clip_on=False,
            zorder=5,
        )


def _line(axes: Axes, task: int, points: list[tuple[int, float, Cell]], rows: tuple[Row, ...], crowded: bool) -> None:
    """One task: band, line (dotted over what was not measured, pale before its own training), markers, ring."""
    colour = style.theme().colours[task % len(style.theme().colours)]
    learnt = next((x for x, row in enumerate(rows) if row.trained == task), 0)
    banded: set[int] = set()
    for (x0, y0, first), (x1, y1, second) in pairwise(points):
        measured = x1 == x0 + 1
        before = x1 <= learnt
        axes.plot(
            [x0, x1],
            [y0, y1],
            color=colour,
            linewidth=1.7 if measured and not before else 1.0,
            linestyle="-" if measured else (0, (1, 2)),
            alpha=0.45 if before and measured else 1.0,
            zorder=2 if before else 3,
        )
        if measured and not (before and crowded) and first.interval is not None and second.interval is not None:
            banded |= {x0, x1}
            axes.fill_between(
                [x0, x1],
                [first.interval[0], second.interval[0]],
                [first.interval[1], second.interval[1]],
                color=colour,
                alpha=0.07 if crowded else 0.13,
                linewidth=0,
                zorder=1,
            )
    for x, score, cell in points:
        axes.plot(
            [x],
            [score],
            color=colour,
            marker=style.MARKERS[task % len(style.MARKERS)],
            markersize=5,
            markeredgecolor=style.theme().paper,
            markeredgewidth=0.6,
            alpha=0.55 if x < learnt and crowded else 1.0,
            zorder=4,
        )
        if x == learnt and rows[x].trained == task:
            ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.3}
            axes.plot([x], [score], color=colour, marker="o", zorder=4, clip_on=False, **ring)
        if x not in banded and not (x < learnt and crowded) and cell.interval is not None:
            axes.plot([x, x], cell.interval, color=colour, linewidth=3.2, alpha=0.25, zorder=1, solid_capstyle="butt")


def _gaps(run: Run, task: int) -> bool:
    """Whether a task has a row without a score between two with one."""
    measured = [x for x, row in enumerate(run.rows) if row.cells[task].score is not None]
    return bool(measured) and measured[-1] - measured[0] + 1 != len(measured)


def _legend(figure: object, axes: Axes, run: Run, dotted: bool) -> None:
    """What ring, dots and band mean, below the axes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [
        Line2D([], [], color=style.theme().soft, marker="o", markersize=9, markerfacecolor="none", linestyle="")
    ]
    words = ["just trained"]
    if dotted:
        handles.append(Line2D([], [], color=style.theme().soft, linewidth=1.0, linestyle=(0, (1, 2))))
        words.append("not measured between")
    if any(cell.interval is not None for row in run.rows for cell in row.cells):
        handles.append(Patch(facecolor=style.theme().soft, alpha=0.2, linewidth=0))
        words.append("95 % interval")
    axes.legend(
        handles,
        words,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=7.5,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.1,
        handlelength=1.6,
    )


def _bars(run: Run) -> Figure:
    """Horizontal bars of the final scores, with zero-shot and the best trivial baseline next to them."""
    from matplotlib.lines import Line2D

    tasks = style.names(run.tasks)
    count = len(tasks)
    figure = style.new_figure(6.2, 0.36 * count + 1.3)
    axes = figure.add_axes((0.25, 0.2, 0.7, 0.65))
    handles: dict[str, Line2D] = {}
    for index, cell in enumerate(run.final):
        if cell.score is None:
            axes.text(1, index, "not measured", va="center", fontsize=8, color=style.theme().soft)
            continue
        colour = style.theme().colours[0]
        axes.barh(index, cell.score, height=0.62, color=colour, alpha=0.85, zorder=2)
        if cell.interval is not None:
            axes.plot(cell.interval, [index, index], color=style.theme().ink, linewidth=1.1, zorder=4)
        before = run.zero_shot.cells[index].score if run.zero_shot is not None else None
        if before is not None:
            handles["zero-shot"] = axes.plot(
                [before],
                [index],
                "D",
                color=style.theme().paper,
                markeredgecolor=style.theme().ink,
                markersize=5.5,
                zorder=5,
                ls="",
            )[0]
        floor = trivial_score(cell)
        if floor is not None:
            tick: dict[str, Any] = {
                "color": style.theme().colours[1],
                "marker": "|",
                "markeredgewidth": 2,
                "linestyle": "",
            }
            axes.plot([floor], [index], markersize=15, zorder=5, **tick)
            handles["best trivial answer"] = Line2D([], [], markersize=8, **tick)
        # In a separate column: next to a bar it would be taken for the value of a mark.
        axes.text(109, index, mark_of(cell) + number(cell.score, 1), va="center", ha="right", fontsize=8.5)
    axes.set_yticks(range(count), tasks)
    axes.set_ylim(count - 0.45, -0.55)
    axes.set_xlim(0, 109)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.xaxis.grid(True, color=style.theme().grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=2)
    axes.tick_params(axis="y", length=0)
    kind = "after training on all tasks jointly" if run.joint is not None else "by the model of the task itself"
    axes.set_xlabel(f"score {kind}", fontweight="bold")
    _title(axes, run)
    _note(axes, run.final)
    if handles:
        axes.legend(
            list(handles.values()),
            list(handles),
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=2,
            frameon=False,
            fontsize=7.5,
            borderaxespad=0.1,
            handletextpad=0.3,
        )
    return figure


def _title(axes: Axes, run: Run) -> None:
    """Method and stream, above the legend."""
    axes.set_title(style.title(run.method, run.stream), pad=20, fontsize=11)


def _note(axes: Axes, cells: Sequence[Cell]) -> None:
    """The legend of the marks, below the picture."""
    note = mark_note(cells)
    if note:
        width = axes.get_window_extent().width / axes.figure.dpi
        lines = wrap(note.replace(f"{MARK} ", f"{MARK}\N{NO-BREAK SPACE}"), max(40, int(width / 0.06)))
        axes.annotate(
            lines,
            (0, 0),
            (0, -44),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7,
            color=style.theme().soft,
            va="top",
            annotation_clip=False,
        )


def _print(colour: str) -> str:
    """The colour for small print: darkened on white so that it stays readable, as it is on a dark background."""
    from matplotlib.colors import to_hex, to_rgb

    if style.theme() is not style.LIGHT:
        return colour
    red, green, blue = (part * 0.75 for part in to_rgb(colour))
    return str(to_hex((red, green, blue)))
