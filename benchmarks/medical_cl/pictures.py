"""``curves.png``: the score on every task after every task of the stream, one line per recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cl_plugins.report import style
from cl_plugins.report.groups import summarise
from cl_plugins.report.writing import write_atomically


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.medical_cl.tables import Row


def write(rows: Sequence[Row], folder: Path, title: Callable[[str], str]) -> list[Path]:
    """Draw the picture.

    Args:
        rows: Recipes with their runs, all in one order of the tasks.
        folder: Where it goes.
        title: From the name of a task to its title.
    """
    with style.picture_style():
        write_atomically(folder / "curves.png", _draw(rows, title))
    return [folder / "curves.png"]


def _draw(rows: Sequence[Row], title: Callable[[str], str]) -> bytes:
    tasks = rows[0].runs[0].tasks
    panel, gap, height = 2.0, 0.42, 2.1
    legend = 0.2 * -(-(len(rows) + 1) // 5) + 0.1
    figure = style.new_figure(0.5 + len(tasks) * (panel + gap), height + legend + 0.95)
    across, down = figure.get_figwidth(), figure.get_figheight()
    for place, task in enumerate(tasks):
        left = (0.5 + place * (panel + gap)) / across
        axes = figure.add_axes((left, (legend + 0.55) / down, panel / across, height / down))
        _panel(axes, rows, place, [title(name) for name in tasks])
        axes.set_title(f"Score on {title(task)}", pad=8)
    handles, words = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        words,
        loc="lower left",
        bbox_to_anchor=(0.5 / across, 0.05 / down),
        ncols=5,
        frameon=False,
        fontsize=7.5,
        borderaxespad=0,
    )
    return style.png(figure, figure.get_tightbbox())


def _panel(axes: Axes, rows: Sequence[Row], column: int, names: Sequence[str]) -> None:
    """The score on one task: zero-shot, then after every task; hollow before the task itself was learned."""
    stages = ["zero_shot", *(f"after_{task}" for task in rows[0].runs[0].tasks)]
    for index, row in enumerate(rows):
        colour = style.COLOURS[index % len(style.COLOURS)]
        # The second round of colours takes other markers, so that no two recipes look alike.
        marker = style.MARKERS[(index + 3 * (index // len(style.COLOURS))) % len(style.MARKERS)]
        places, means = [], []
        for stage, name in enumerate(stages):
            found = [r.cells[column].score for run in row.runs for r in run.rows if r.name == name]
            mean = summarise(found).mean
            if mean is not None:
                places.append(stage)
                means.append(mean)
        look = {"color": colour, "marker": marker, "markersize": 4.2, "linewidth": 1.2, "markeredgewidth": 0.8}
        if row.runs[0].joint is not None:
            joint = summarise([run.joint.cells[column].score for run in row.runs if run.joint is not None]).mean
            if joint is not None:
                axes.axhline(joint, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
            axes.plot([], [], color=colour, linewidth=1.0, linestyle=(0, (4, 2)), label=f"{row.label} (all at once)")
            continue
        first = next((place for place, stage in enumerate(places) if stage > 0), None)
        if first:  # between zero-shot and the first test after training nothing was measured
            pale = {"color": colour, "linewidth": 0.8, "linestyle": (0, (1, 2)), "alpha": 0.6, "zorder": 2}
            axes.plot(places[: first + 1], means[: first + 1], **pale)  # type: ignore[arg-type]
        learned = slice(first or 0, None)
        axes.plot(places[learned], means[learned], label=row.label, zorder=3, **look)  # type: ignore[arg-type]
    zero = [run.zero_shot.cells[column].score for row in rows for run in row.runs if run.zero_shot is not None]
    mean = summarise(zero).mean
    if mean is not None:
        hollow = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "markeredgecolor": style.INK}
        axes.plot([0], [mean], linestyle="", zorder=4, label="zero-shot", **hollow)  # type: ignore[arg-type]
    axes.axvline(column + 0.5, color=style.SOFT, linewidth=0.7, linestyle=":", zorder=0)
    axes.set_xlim(-0.3, len(stages) - 0.7)
    axes.set_xticks(range(len(stages)), ["none", *names])
    axes.set_xlabel("learned so far, up to (dotted line: the task itself)", fontsize=7)
    axes.tick_params(labelsize=7.5, length=2)
    axes.yaxis.grid(True, color=style.GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    low, high = axes.get_ylim()
    axes.set_ylim(max(-2.0, low), min(102.0, max(high, low + 5)))
