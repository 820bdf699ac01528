"""What the pictures of matrices share: scale, colours, and what stands around the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import style


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .run_data import Run


# Every matrix uses the same scale, so that two pictures side by side can be compared.
LOW, HIGH = 0.0, 100.0


def row_names(run: Run, tasks: list[str]) -> list[str]:
    """The label of each row: the task as its column has it, or the label of a row without a task.

    Args:
        run: The run.
        tasks: The names of the columns.
    """
    return [row.label if row.trained is None else tasks[row.trained] for row in run.rows]


def frame(figure: Figure, axes: Axes, run: Run, colours: Any) -> None:
    """Names of the axes, colour scale and title of an accuracy matrix, whose tests are named above."""
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("score on", labelpad=8, fontweight="bold")
    if run.joint is None:
        axes.set_ylabel(
            "after training on" if not run.independent else "trained on alone", labelpad=8, fontweight="bold"
        )
    for spine in axes.spines.values():
        spine.set_visible(False)
    colour_bar(figure, axes, colours)
    axes.set_title(style.title(run.method, run.stream), pad=14, fontsize=11)


def colour_bar(figure: Any, axes: Axes, colours: Any) -> None:
    """The colour scale at the right."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    box = axes.get_position()
    inch = 1 / figure.get_figwidth()
    bar = figure.add_axes((box.x1 + 0.15 * inch, box.y0, 0.11 * inch, box.height))
    scale = figure.colorbar(ScalarMappable(Normalize(LOW, HIGH), colours), cax=bar)
    scale.outline.set_visible(False)
    scale.set_ticks([0, 25, 50, 75, 100])
    scale.ax.tick_params(length=2, labelsize=7)


def heat_colours() -> Any:
    """A single-hue sequential map: readable with every kind of colour vision and in grey print."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", list(style.theme().heat))


def ink_on(colour: tuple[float, ...]) -> str:
    """White or near-black, whichever is read better on a colour."""
    # Where both are read equally well (a contrast of 4.4 to 1), by WCAG's formula.
    return "white" if _luminance(colour) < 0.19 else style.LIGHT.ink


def _luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance (WCAG 2) of an sRGB colour."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
