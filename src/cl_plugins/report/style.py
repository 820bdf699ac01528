"""How every picture looks, and how it becomes bytes that depend on the numbers only.

Matplotlib is used through its objects (no pyplot, no backend choice, no state left behind) and imported when the first
picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .text import shorten


if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import BboxBase

DPI = 200


@dataclass(frozen=True)
class Theme:
    """The colours of a picture.

    Attributes:
        paper: The background.
        ink: Text.
        soft: Less important text, axes and marks that belong to no series.
        grid: Grid lines.
        empty: The background of what was not measured.
        hatch: Its hatching.
        colours: One per series, each with a contrast of at least 3 to 1 on the background.
        heat: From the least to the greatest score of a heat map.
    """

    paper: str
    ink: str
    soft: str
    grid: str
    empty: str
    hatch: str
    colours: tuple[str, ...]
    heat: tuple[str, ...]


# The hues of Okabe and Ito without its yellow, then the muted ones of Tol: both were chosen to stay distinct under the
# common colour-vision deficiencies. Pale ones are darkened (light theme), dark ones lightened (dark theme).
LIGHT = Theme(
    paper="#ffffff",
    ink="#1a1a1a",
    soft="#6b6b6b",
    grid="#e3e3e3",
    empty="#f1f1f1",
    hatch="#c4c4c4",
    colours=(
        "#0072B2",
        "#D55E00",
        "#009E73",
        "#B8568F",
        "#A87400",
        "#3790C4",
        "#332288",
        "#7A7A1F",
        "#882255",
        "#2B8577",
        "#000000",
        "#767676",
    ),
    heat=("#f3f8fe", "#c6dbef", "#6aaed6", "#2070b4", "#083370"),
)
DARK = Theme(
    paper="#1c2024",
    ink="#e7e9ec",
    soft="#a2abb5",
    grid="#353b42",
    empty="#262b30",
    hatch="#4a525b",
    colours=(
        "#56B4E9",
        "#FF8A4C",
        "#2FBF95",
        "#E59CC4",
        "#E6B04A",
        "#9AD0F5",
        "#A99BEA",
        "#CFCF6B",
        "#E07AA5",
        "#6FD1C3",
        "#F0F0F0",
        "#A8A8A8",
    ),
    heat=("#23303d", "#24506f", "#2f7fb5", "#6db3e0", "#d2e9fb"),
)
INK, SOFT, GRID, COLOURS = LIGHT.ink, LIGHT.soft, LIGHT.grid, LIGHT.colours
_THEME: ContextVar[Theme] = ContextVar("theme", default=LIGHT)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")

_RC: dict[str, Any] = {
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
    "text.parse_math": False,
}
# Families that hold the scripts DejaVu lacks; only those that are installed are asked for.
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Arial Unicode MS",
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)


@dataclass(frozen=True)
class Picture:
    """A picture in the forms that readers need.

    Attributes:
        png: For pages and slides.
        pdf: The same as vectors, for papers.
        dark: A PNG for pages on a dark background.
    """

    png: bytes
    pdf: bytes
    dark: bytes


def theme() -> Theme:
    """The colours of the picture that is being drawn."""
    return _THEME.get()


def render(draw: Callable[[], Figure]) -> Picture:
    """Draw a picture in every form.

    Args:
        draw: Makes the figure with the colours of `theme`.
    """
    with picture_style():
        figure = draw()
        box = figure.get_tightbbox()  # laying out the text is most of the work
        light, vectors = png(figure, box), pdf(figure, box)
    with picture_style(DARK):
        dark = png(draw(), box)
    return Picture(light, vectors, dark)


@contextmanager
def picture_style(colours: Theme = LIGHT) -> Iterator[None]:
    """Draw and save with our own settings, whatever ``matplotlibrc`` sets; restores the user's settings.

    Args:
        colours: What `theme` returns meanwhile.
    """
    import matplotlib

    # matplotlib types the keys as literals, which a dict made here cannot be.
    settings: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    settings.update(_RC)
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), colours.ink)
    settings |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), colours.soft)
    settings |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), colours.paper)
    settings["hatch.color"] = colours.hatch
    settings["font.family"] = list(_families())
    token = _THEME.set(colours)
    try:
        with matplotlib.rc_context(settings):
            yield
    finally:
        _THEME.reset(token)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=None)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, box: BboxBase) -> bytes:
    """The figure as PNG, cut to what is drawn; the same bytes for the same drawing (no date, no version inside).

    Args:
        figure: The figure.
        box: What is drawn, in inches.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches=box.padded(0.08), metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure, box: BboxBase) -> bytes:
    """The figure as PDF, cut to what is drawn; the same bytes for the same drawing, with its text as text.

    Args:
        figure: The figure.
        box: What is drawn, in inches.
    """
    buffer = io.BytesIO()
    none = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    figure.savefig(buffer, format="pdf", bbox_inches=box.padded(0.03), metadata=none)
    return buffer.getvalue()


def message(title: str, sentence: str) -> Figure:
    """A picture for a run that has nothing to draw yet, so that no page lacks its picture."""
    figure = new_figure(4.2, 1.2)
    figure.text(0.03, 0.8, title, fontsize=11, fontweight="bold", va="center")
    figure.text(0.03, 0.35, sentence, color=theme().soft, va="center")
    return figure


def names(given: Sequence[str], width: int = 22, word: str = "task") -> list[str]:
    """Names for a picture: shortened, and numbered (``task 3``) where no installed font can draw them."""
    return [
        shorten(" ".join(name.split()), width) if drawable(name) else f"{word} {index + 1}"
        for index, name in enumerate(given)
    ]


def title(method: str, stream: str) -> str:
    """The heading of the picture of a run."""
    shown = names([method], 40, "method")[0], names([stream], 40, "stream")[0]
    return " on ".join(name.removesuffix(" 1") for name in shown)


def drawable(label: str) -> bool:
    """Whether the installed fonts hold every character of a label."""
    wanted = {ord(char) for char in label if not char.isspace()}
    for family in _families():
        wanted -= _characters(family)
        if not wanted:
            return True
    return not wanted


@cache
def _characters(family: str) -> frozenset[int]:
    """The characters of a font family that is installed."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont(family)).get_charmap())


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels: as near as possible to where they belong, at least ``gap`` apart, inside bounds.

    The least-squares solution: after subtracting ``rank * gap`` the spacing constraint is plain monotony, which
    pooling adjacent violators solves exactly; clamping to the bounds keeps it optimal.

    Args:
        wanted: Where the labels belong.
        gap: The least distance.
        low: The lowest place.
        high: The highest place.

    Returns:
        One place per label, in the order of ``wanted``. Where the bounds are too narrow, the gap shrinks.
    """
    count = len(wanted)
    if count > 1:
        gap = min(gap, (high - low) / (count - 1))
    order = sorted(range(count), key=lambda index: (wanted[index], index))
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([wanted[index] - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, size = pools.pop()
            pools[-1] = [(pools[-1][0] * pools[-1][1] + mean * size) / (pools[-1][1] + size), pools[-1][1] + size]
    flat = [mean for mean, size in pools for _ in range(int(size))]
    ceiling = high - (count - 1) * gap
    places = [0.0] * count
    for rank, index in enumerate(order):
        places[index] = min(max(flat[rank], low), ceiling) + rank * gap
    return places


@cache
def _families() -> tuple[str, ...]:
    """The font families to try, in order."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(family for family in _FALLBACKS if family in installed))
