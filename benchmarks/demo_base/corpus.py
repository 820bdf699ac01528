"""Pictures with questions and captions for pretraining the demo base, made from everyday photographs.

Three kinds of picture: a crop, a crop with a coloured box drawn on it, and pieces cut from photographs and strewn over a
dark crop. The facts of a picture are computed while it is made, so every answer is right by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.demo_base.photographs import GROUPS, PHOTOGRAPHS
from cl_plugins.data.demo.items import SIDE, letter, tercile_edges
from cl_plugins.data.demo.sources import read_rgb


COLOURS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (40, 60, 255), "yellow": (255, 230, 0)}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CORNERS = ("upper left", "upper right", "lower left", "lower right")
HUES = ("red or orange", "yellow or green", "blue or purple", "grey, black or white")
TEXTURES = ("smooth", "mixed", "rough")
SHADES = ("dark", "middle", "bright")


WORDS = (
    *SHADES, *TEXTURES, *NUMBERS, *COLOURS,
    "cat", "horse", "rocket", "clock", "temple", "wall", "cup", "coin", "flower", "grass", "sky", "house", "tree", "river",
    "bread", "chair", "window", "street", "bird", "fish", "stone", "paper", "winter", "summer", "north", "south",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A pretraining picture and what is known about it.

    Attributes:
        image: (32, 32, 3) uint8.
        kind: "plain", "box" or "pieces".
        photo: Index in ``PHOTOGRAPHS`` (of the background).
        shade: Mean grey value, 0-1; inside the box if there is one.
        hue: Index in ``HUES``.
        spread: Standard deviation of the grey values, 0-1.
        corner: Index in ``CORNERS``: where the box is, or which quarter is brightest.
        count: Number of pieces; 0 if there are none.
        box: Centre row, centre column (pixels), 0 if there is no box.
        colour: Name of the box's colour; empty if there is no box.
    """

    image: NDArray[np.uint8]
    kind: str
    photo: int
    shade: float
    hue: int
    spread: float
    corner: int
    count: int
    box: tuple[int, int] = (0, 0)
    colour: str = ""


def make_pictures(number: int, seed: int) -> list[Picture]:
    """Make pretraining pictures; a third of each kind.

    Args:
        number: How many.
        seed: Seed of everything random.
    """
    rng = np.random.default_rng(seed)
    photos = [_shrunken(read_rgb(photo.source)) for photo in PHOTOGRAPHS]
    makers = (_plain, _boxed, _pieces)
    return [makers[index % 3](photos, rng) for index in range(number)]


def _shrunken(photo: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return the photograph at full, half and a quarter of its size, as (h, w, 3) float32 in 0-1."""
    levels: list[NDArray[np.float32]] = [(photo / 255).astype(np.float32)]
    while len(levels) < 3:
        last = levels[-1]
        even = last[: last.shape[0] // 2 * 2, : last.shape[1] // 2 * 2]
        levels.append(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 3).mean((1, 3), dtype=np.float32))
    return levels


def _crop(photos: list[list[NDArray[np.float32]]], rng: np.random.Generator) -> tuple[int, NDArray[np.float32]]:
    """Return which photograph, and a turned and recoloured (32, 32, 3) crop of it, float32 in 0-1."""
    which = int(rng.integers(len(photos)))
    level = photos[which][int(rng.integers(3))]
    scale = 2 if min(level.shape[:2]) >= 2 * SIDE and rng.random() < 0.5 else 1
    top = int(rng.integers(level.shape[0] - scale * SIDE + 1))
    left = int(rng.integers(level.shape[1] - scale * SIDE + 1))
    crop = level[top : top + scale * SIDE, left : left + scale * SIDE]
    if scale == 2:
        crop = crop.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))
    turned = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    return which, _recolour(turned, rng)


def _recolour(crop: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Vary brightness, contrast and saturation; now and then tint, swap channels or drop the colour."""
    style = rng.random()
    if style < 0.3:
        crop = np.repeat(crop.mean(-1, keepdims=True), 3, axis=-1)
    elif style < 0.45:
        tint = rng.uniform(0.3, 1.0, 3).astype(np.float32)
        crop = crop.mean(-1, keepdims=True) * tint / tint.max()
    elif style < 0.6:
        crop = crop[..., rng.permutation(3)]
    gain, shift = rng.uniform(0.6, 1.3), rng.uniform(-0.2, 0.25)
    return np.clip((crop - 0.5) * gain + 0.5 + shift, 0, 1).astype(np.float32)


def _hue(crop: NDArray[np.float32]) -> int:
    red, green, blue = crop.mean((0, 1))
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < 0.08:
        return 3
    if high == blue:
        return 2
    return 0 if high == red and green - low < 0.75 * (high - low) else 1


def _facts(crop: NDArray[np.float32]) -> tuple[float, int, float, int]:
    """Return shade, hue, spread and the brightest quarter."""
    grey, half = crop.mean(-1), SIDE // 2
    quarters = [float(part.mean()) for rows in (grey[:half], grey[half:]) for part in (rows[:, :half], rows[:, half:])]
    return float(grey.mean()), _hue(crop), float(grey.std()), int(np.argmax(quarters))


def _to_uint8(crop: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.round(crop * 255), dtype=np.uint8)


def _plain(photos: list[list[NDArray[np.float32]]], rng: np.random.Generator) -> Picture:
    which, crop = _crop(photos, rng)
    shade, hue, spread, corner = _facts(crop)
    return Picture(_to_uint8(crop), "plain", which, shade, hue, spread, corner, 0)


def _boxed(photos: list[list[NDArray[np.float32]]], rng: np.random.Generator) -> Picture:
    which, crop = _crop(photos, rng)
    _, hue, spread, _ = _facts(crop)
    reach = int(rng.integers(3, 7))
    row, column = (int(rng.integers(reach, SIDE - reach)) for _ in range(2))
    if rng.random() < 0.5:
        # A patch of another photograph lies inside, so that the surroundings do not give the answer away.
        _, other = _crop(photos, rng)
        crop = crop.copy()
        crop[row - reach : row + reach + 1, column - reach : column + reach + 1] = other[
            : 2 * reach + 1, : 2 * reach + 1
        ]
    inside = float(crop[row - reach + 1 : row + reach, column - reach + 1 : column + reach].mean())
    colour = "red" if rng.random() < 0.7 else list(COLOURS)[int(rng.integers(len(COLOURS)))]
    image = _to_uint8(crop)
    image[[row - reach, row + reach], column - reach : column + reach + 1] = COLOURS[colour]
    image[row - reach : row + reach + 1, [column - reach, column + reach]] = COLOURS[colour]
    corner = 2 * int(row >= SIDE // 2) + int(column >= SIDE // 2)
    return Picture(image, "box", which, inside, hue, spread, corner, 0, (row, column), colour)


def _pieces(photos: list[list[NDArray[np.float32]]], rng: np.random.Generator) -> Picture:
    which, background = _crop(photos, rng)
    background = background.mean((0, 1)) * rng.uniform(0.1, 0.6) + (
        background - background.mean((0, 1))
    ) * rng.uniform(0.05, 0.3)
    canvas = np.clip(background, 0, 1)
    wanted, size = int(rng.integers(0, len(NUMBERS))), rng.uniform(2.0, 3.8)
    grid = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    centres: list[tuple[float, float]] = []
    for _ in range(60):
        if len(centres) == wanted:
            break
        row, column = (float(value) for value in rng.uniform(0.5, SIDE - 1.5, 2))
        if any((row - r) ** 2 + (column - c) ** 2 < (1.5 * size) ** 2 for r, c in centres):
            continue
        centres.append((row, column))
        _, piece = _crop(photos, rng)
        lifted = piece * 0.35 + rng.uniform(0.35, 0.65)
        angle, ratio, radius = rng.uniform(0, np.pi), rng.uniform(0.55, 1.0), size * rng.uniform(0.8, 1.2)
        along = (grid[0] - row) * np.cos(angle) + (grid[1] - column) * np.sin(angle)
        across = (grid[1] - column) * np.cos(angle) - (grid[0] - row) * np.sin(angle)
        distance = np.sqrt(along**2 + (across / ratio) ** 2)
        cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]
        canvas = canvas * (1 - cover) + np.clip(lifted, 0, 1) * cover
    shade, hue, spread, corner = _facts(canvas.astype(np.float32))
    return Picture(_to_uint8(canvas), "pieces", which, shade, hue, spread, corner, len(centres))


@dataclass(frozen=True)
class Scale:
    """Edges of the three-way answers, equal in frequency over the pretraining pictures."""

    shade: list[float]
    inside: list[float]
    spread: list[float]


def scale_of(pictures: list[Picture]) -> Scale:
    """Return the edges for these pictures."""

    def edges(kinds: tuple[str, ...], value: Callable[[Picture], float]) -> list[float]:
        return tercile_edges(np.array([value(picture) for picture in pictures if picture.kind in kinds]))

    return Scale(
        shade=edges(("plain",), lambda picture: picture.shade),
        inside=edges(("box",), lambda picture: picture.shade),
        spread=edges(("plain",), lambda picture: picture.spread),
    )


def _bin(value: float, edges: list[float]) -> int:
    return sum(value >= edge for edge in edges)


def _choice(question: str, options: tuple[str, ...], index: int) -> tuple[str, str]:
    lines = ["<image>", question, *(f"{letter(place)}. {text}" for place, text in enumerate(options))]
    return "\n".join([*lines, "Answer with the letter."]), letter(index)


def _backwards(question: str, options: tuple[str, ...], index: int) -> tuple[str, str]:
    return _choice(question, options[::-1], len(options) - 1 - index)


def find_the_word(rng: np.random.Generator) -> tuple[str, str]:
    """Return a question about the options themselves, which stand in any order here: it teaches what the letters are for."""
    words = [WORDS[place] for place in rng.permutation(len(WORDS))[: int(rng.integers(2, 7))]]
    index = int(rng.integers(len(words)))
    return _choice(f"Which option says {words[index]}?", tuple(words), index)


def questions(picture: Picture, scale: Scale) -> list[tuple[str, str]]:
    """Return every (user turn, answer) that fits a picture, always in the same order.

    Args:
        picture: The picture.
        scale: Edges of the three-way answers.
    """
    photo = PHOTOGRAPHS[picture.photo]
    if picture.kind == "plain":
        shade, spread = _bin(picture.shade, scale.shade), _bin(picture.spread, scale.spread)
        caption = f"A {SHADES[shade]} and {TEXTURES[spread]} photo of {photo.words}, mostly {HUES[picture.hue]}."
        return [
            _choice("What does this photo show?", GROUPS, photo.group),
            _choice("How bright is this picture?", SHADES, shade),
            _backwards("How much light is in this picture?", SHADES, shade),
            _choice("Which colour has this picture?", HUES, picture.hue),
            _choice("How rough is this picture?", TEXTURES, spread),
            _choice("Which part of this picture is brightest?", CORNERS, picture.corner),
            ("<image>\nDescribe this photo.", caption),
            ("<image>\nDescribe this picture.", caption),
        ]
    if picture.kind == "box":
        shade = _bin(picture.shade, scale.inside)
        where = f"the {picture.colour} box"
        caption = (
            f"A {picture.colour} box at the {CORNERS[picture.corner]} around a {SHADES[shade]} part of {photo.words}."
        )
        return [
            _choice(f"How bright is it inside {where}?", SHADES, shade),
            _backwards(f"How much light is inside {where}?", SHADES, shade),
            _choice(f"Which corner is {where} in?", CORNERS, picture.corner),
            (f"<image>\nDescribe what is inside {where}.", caption),
        ]
    steps = ("none or one", "two or three", "four or five", "six or seven", "eight or more")
    halves = ("four or fewer", "five or more")
    spots = f"{NUMBERS[picture.count]} piece" + ("" if picture.count == 1 else "s")
    return [
        _choice("How many pieces are in this picture?", steps, min(picture.count // 2, 4)),
        _backwards("How many spots are in this picture?", steps, min(picture.count // 2, 4)),
        _choice("Are there many pieces in this picture?", halves, int(picture.count > 4)),
        ("<image>\nCount the pieces.", f"There are {spots}."),
        ("<image>\nDescribe the pieces.", f"A picture of {spots}, mostly {HUES[picture.hue]}."),
    ]
