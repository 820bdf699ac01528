"""What the four task builders share: an item, a task, cropping, binning and balanced drawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...base.errors import DataError, Problem
from .sources import Source


SIDE = 32
"""Height and width of every demo picture, in pixels: what the demo base reads without resizing."""

Box = tuple[int, int, int, int]
"""Row and column range of a crop in its source picture: top, bottom, left, right (ends exclusive)."""


@dataclass(frozen=True)
class Item:
    """One picture with its answer.

    Attributes:
        image: (32, 32, 3) uint8.
        answer: A letter, or a caption.
        picture: Name of the source (and plane, for volumes).
        slice: Index of the slice in a volume; 0 for flat pictures.
        box: Where in the source picture or slice the crop was taken.
    """

    image: NDArray[np.uint8]
    answer: str
    picture: str
    slice: int
    box: Box


@dataclass(frozen=True)
class DemoTask:
    """One task of the demo stream, in memory.

    Attributes:
        name: Task name in the stream.
        title: One line for people.
        question: Text of the user turn, the same for every item.
        options: Texts of the options in their fixed order; empty for captions.
        train: Training items.
        test: Test items from held-out regions or slices.
        scorer: Name of a scorer.
        modality: Modality label.
        max_new_tokens: Length limit of a generated answer, in tokens.
        steps: How many optimizer steps a recipe trains that says nothing else.
        sources: Pictures that were used.
        split: How training and test regions are kept apart.
        labels: How the labels were made, with the bin edges.
        notes: What a reader must know before believing a number.
    """

    name: str
    title: str
    question: str
    options: tuple[str, ...]
    train: list[Item]
    test: list[Item]
    scorer: str
    modality: str
    max_new_tokens: int
    steps: int
    sources: tuple[Source, ...]
    split: str
    labels: str
    notes: str
    bins: dict[str, list[float]] = field(default_factory=dict)

    def prompt(self) -> str:
        """Return the user turn: image, question, and the lettered options."""
        lines = ["<image>", self.question]
        lines += [f"{letter(index)}. {text}" for index, text in enumerate(self.options)]
        if self.options:
            lines.append("Answer with the letter.")
        return "\n".join(lines)


def letter(index: int) -> str:
    """Return the letter of option ``index``: 0 is A."""
    return chr(ord("A") + index)


def to_picture(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a crop to (32, 32, 3) uint8 by area averaging.

    Args:
        crop: (h, w) or (h, w, 3) uint8.
    """
    from PIL import Image

    image = Image.fromarray(crop).convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def turn(picture: NDArray[np.uint8], which: int) -> NDArray[np.uint8]:
    """Return one of the eight rotations and reflections of a square picture (``which`` in 0..7)."""
    turned = np.rot90(picture, which % 4)
    return np.ascontiguousarray(turned[:, ::-1] if which >= 4 else turned)


def tercile_edges(values: NDArray[np.float64]) -> list[float]:
    """Return the two edges that cut ``values`` into three bins of equal frequency.

    A value below the first edge is in bin 0, a value at or above the second in bin 2.
    """
    return [float(edge) for edge in np.quantile(values, [1 / 3, 2 / 3])]


def count_edges(counts: NDArray[np.int64]) -> list[float]:
    """Return the two integer edges whose three bins of counts are closest to equal frequency.

    Counts are whole numbers, so exact thirds rarely exist: the pair with the smallest largest deviation from one third
    is taken, the lower pair on a tie.
    """
    values = range(int(counts.min()) + 1, int(counts.max()) + 1)
    best: tuple[float, int, int] | None = None
    for low in values:
        for high in values:
            if high <= low:
                continue
            shares = np.array(
                [(counts < low).mean(), ((counts >= low) & (counts < high)).mean(), (counts >= high).mean()]
            )
            candidate = (float(np.abs(shares - 1 / 3).max()), low, high)
            if best is None or candidate < best:
                best = candidate
    if best is None:
        raise DataError(Problem("demo", "the counts have fewer than three different values.", ""))
    return [float(best[1]), float(best[2])]


def bin_of(value: float, edges: list[float]) -> int:
    """Return the number of edges that ``value`` reaches: 0 is the lowest bin."""
    return sum(value >= edge for edge in edges)


def draw_balanced(
    draw: Callable[[np.random.Generator], tuple[int, Item] | None],
    classes: int,
    per_class: int,
    rng: np.random.Generator,
    what: str,
) -> list[Item]:
    """Draw items until every class holds the same number, then shuffle.

    Args:
        draw: Makes one candidate (its class and the item), or None if the place it drew is of no use.
        classes: Number of classes.
        per_class: Items wanted for each.
        rng: Source of all randomness.
        what: Name for the error message.

    Returns:
        ``classes * per_class`` items in random order, no place twice.

    Raises:
        DataError: A class cannot be filled, for example because the region holds too few places of it.
    """
    kept: list[list[Item]] = [[] for _ in range(classes)]
    seen: set[tuple[str, int, Box]] = set()
    for _ in range(400 * classes * per_class):
        found = draw(rng)
        if found is None:
            continue
        index, item = found
        place = (item.picture, item.slice, item.box)
        if len(kept[index]) < per_class and place not in seen:
            seen.add(place)
            kept[index].append(item)
            if all(len(items) == per_class for items in kept):
                break
    else:
        sizes = [len(items) for items in kept]
        raise DataError(Problem(what, f"cannot draw {per_class} items of each class; found {sizes}.", ""))
    flat = [item for items in kept for item in items]
    return [flat[index] for index in rng.permutation(len(flat))]
