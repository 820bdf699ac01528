"""``compare.png`` and ``compare.pdf``: single runs, mean and interval of every group, one panel per metric."""

from __future__ import annotations

import textwrap
from functools import partial
from typing import TYPE_CHECKING, Any

from . import data_apart, scores, style
from .groups import METRICS, NO_METRIC, TASK_MEANS, Comparison, Group, Summary
from .run_data import METRIC_LABELS
from .text import listing, number


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOWER_IS_BETTER = frozenset({"forgetting"})
_DIFFERENCES = frozenset({"bwt", "forgetting"})
_LABEL = 34  # characters of a line of a label


def compare_picture(comparison: Comparison) -> style.Picture:
    """Draw the comparison.

    One row per group and one panel per metric that any group has: an open dot for each run, the mean as a filled
    diamond with its 95 % t-interval over runs, its number next to it. A dashed line stands where trivial answers to all
    tasks would be; means that are not above it are marked.

    Args:
        comparison: The runs; where no metric is defined, the final scores of the tasks take the panels, unless there are
            too many tasks.
    """
    return style.render(partial(_draw, comparison))


def _draw(comparison: Comparison) -> Figure:
    shown = style.names(comparison.tasks)
    panels = [
        (key, METRIC_LABELS[key], [group.metrics[key] for group in comparison.groups])
        for key in METRICS
        if any(group.metrics[key].values for group in comparison.groups)
    ]
    if not panels and comparison.many:
        streams = dict.fromkeys(member.run.stream for member in comparison.members)
        return style.message(listing(style.names(list(streams), 40, "stream")), NO_METRIC)
    if not panels:
        panels = [
            (
                task,
                f"{name}, final" if comparison.after is None else name,
                [group.final[task] for group in comparison.groups],
            )
            for task, name in zip(comparison.tasks, shown, strict=True)
        ]
    labels = [_label(label) for label in style.names([group.label for group in comparison.groups], 100, "method")]
    lines = max(label.count("\n") + 1 for label in labels)
    row = 0.34 + 0.13 * lines
    height, panel, gap = row * len(labels) + 0.15, 1.45, 0.22
    figure = style.new_figure(2.0 + len(panels) * (panel + gap), height + 1.4)
    across, down = figure.get_figwidth(), figure.get_figheight()
    for place, (key, title, entries) in enumerate(panels):
        box = ((1.9 + place * (panel + gap)) / across, 0.6 / down, panel / across, height / down)
        axes = figure.add_axes(box)
        _panel(axes, key, entries, comparison)
        axes.set_title(title, fontsize=9.5, pad=14)
        if key in METRICS:
            better = "lower is better" if key in _LOWER_IS_BETTER else "higher is better"
            axes.text(0, 1.0, better, transform=axes.transAxes, fontsize=7, color=style.theme().soft, va="bottom")
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_yticks(range(len(labels)), labels if place == 0 else [""] * len(labels))
        axes.tick_params(axis="y", length=0, pad=6)
        axes.tick_params(axis="x", length=2, labelsize=7.5)
        for index in range(len(labels) - 1):
            axes.axhline(index + 0.5, color=style.theme().grid, linewidth=0.7, zorder=0)
    _legend(figure, comparison, 1.9 / across, 0.12 / down)
    return figure


def _panel(axes: Axes, key: str, entries: list[Summary], comparison: Comparison) -> None:
    """One metric: runs, means and intervals of all groups, and where trivial answers are."""
    # Lines behind a number end at its sides.
    clear: dict[str, Any] = {"facecolor": style.theme().paper, "edgecolor": "none", "pad": 0.8}
    for index, entry in enumerate(entries):
        colour = style.theme().colours[index % len(style.theme().colours)]
        if entry.mean is None:
            axes.text(
                0.5,
                index,
                "not defined",
                transform=axes.get_yaxis_transform(),
                ha="center",
                va="center",
                fontsize=7.5,
                color=style.theme().soft,
                bbox=clear,
            )
            continue
        if len(entry.values) > 1:
            # Runs are spread a little, in their order, so that equal scores do not hide each other.
            count = len(entry.values)
            offsets = [index + 0.2 + 0.12 * (rank / (count - 1) - 0.5) for rank in range(count)]
            axes.plot(
                entry.values,
                offsets,
                linestyle="",
                marker="o",
                markersize=3.6,
                markerfacecolor="none",
                markeredgecolor=colour,
                markeredgewidth=0.9,
                alpha=0.9,
                zorder=2,
            )
        if entry.half_width is not None:
            least, most = _scale(key)
            ends = [max(entry.mean - entry.half_width, least), min(entry.mean + entry.half_width, most)]
            axes.plot(ends, [index, index], color=colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
        axes.plot(
            [entry.mean],
            [index],
            "D",
            color=colour,
            markersize=5.5,
            markeredgecolor=style.theme().paper,
            markeredgewidth=0.7,
            zorder=4,
        )
        axes.text(
            entry.mean,
            index - 0.17,
            _number(comparison, comparison.groups[index], key),
            ha="center",
            va="bottom",
            fontsize=7.5,
            zorder=5,
            bbox=clear,
        )
    low, high = _range(key, entries)
    trivial = _trivial(comparison, key)
    if trivial is not None:
        low, high = min(low, trivial - 2), max(high, trivial + 2)
        axes.axvline(trivial, color=style.theme().soft, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    axes.set_xlim(low, high)
    axes.xaxis.grid(True, color=style.theme().grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
    if key in _DIFFERENCES and low < 0 < high:
        axes.axvline(0, color=style.theme().soft, linewidth=0.9, zorder=1)


def _number(comparison: Comparison, group: Group, key: str) -> str:
    """A mean, with its marks."""
    summary = group.metrics[key] if key in group.metrics else group.final[key]
    apart = data_apart.MARK if comparison.is_apart(key) else ""
    return apart + (scores.MARK if group.is_trivial(key) else "") + number(summary.mean, 1)


def _trivial(comparison: Comparison, key: str) -> float | None:
    """What trivial answers reach; ``None`` where it is not known, or differs because the runs had different tests."""
    found = [group.trivial[key] for group in comparison.groups if key in group.trivial]
    return found[0] if found and max(found) - min(found) < 0.05 else None


def _range(key: str, entries: list[Summary]) -> tuple[float, float]:
    """What the axis shows: all runs, means and intervals with room for the numbers; zero where it is the reference.

    Intervals of two or three runs can be much wider than the scale of the scores; they are cut at 0 and 100.
    """
    found = [value for entry in entries for value in entry.values]
    found += [
        entry.mean + sign * entry.half_width
        for entry in entries
        if entry.mean is not None and entry.half_width is not None
        for sign in (-1, 1)
    ]
    least, most = _scale(key)
    found = [min(max(value, least), most) for value in found] or [least, most]
    if key in _DIFFERENCES:
        found.append(0.0)
    room = max(0.14 * (max(found) - min(found)), 2.0)
    return min(found) - room, max(found) + room


def _scale(key: str) -> tuple[float, float]:
    """The least and the greatest value there can be."""
    return (-100.0, 100.0) if key in _DIFFERENCES else (0.0, 100.0)


def _label(label: str) -> str:
    """A group's label; what sets its recipe apart is on lines of its own."""
    method, bracket, told = label.partition(" (")
    return "\n".join([method, *textwrap.wrap(f"({told}", _LABEL, break_on_hyphens=False)] if bracket else [label])


def _legend(figure: object, comparison: Comparison, left: float, bottom: float) -> None:
    """What dots, diamonds and lines mean."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not isinstance(figure, Figure):
        return
    groups = comparison.groups
    entries = [entry for group in groups for entry in (*group.metrics.values(), *group.final.values())]
    several = any(len(entry.values) > 1 for entry in entries)
    handles = [Line2D([], [], color=style.theme().soft, marker="D", markersize=5.5, linestyle="")]
    words = ["mean" if several else "the run"]
    if several:
        handles.append(Line2D([], [], color=style.theme().soft, linewidth=1.8))
        words.append("95 % t-interval over runs")
        ring: dict[str, Any] = {"markerfacecolor": "none", "markersize": 3.8, "linestyle": ""}
        handles.append(Line2D([], [], color=style.theme().soft, marker="o", **ring))
        words.append("single runs")
    drawn = (
        *(TASK_MEANS if any(group.metrics[key].values for group in groups for key in METRICS) else comparison.tasks),
    )
    if any(_trivial(comparison, key) is not None for key in drawn):
        handles.append(Line2D([], [], color=style.theme().soft, linewidth=0.9, linestyle=(0, (3, 2))))
        marked = any(group.is_trivial(key) for group in groups for key in drawn)
        words.append("best answers without a model" + (f" ({scores.MARK}: not above)" if marked else ""))
    if comparison.apart:
        handles.append(Line2D([], [], linestyle=""))
        words.append(f"{data_apart.MARK}: tests differ, not comparable")
    figure.legend(
        handles,
        words,
        loc="lower left",
        bbox_to_anchor=(left, bottom),
        ncols=len(handles),
        frameon=False,
        fontsize=7.5,
        borderaxespad=0,
        handletextpad=0.5,
        columnspacing=1.4,
    )
