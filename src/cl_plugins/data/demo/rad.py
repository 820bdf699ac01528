"""Rad: captions of slices of an averaged brain in three planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .items import DemoTask, Item, bin_of, draw_balanced, tercile_edges, to_picture
from .neuro import part_of_slice
from .sources import MNI_GREY, MNI_T1, MNI_WHITE, read_volume


PLANES = ("sagittal", "coronal", "axial")
LEVELS = {
    "sagittal": ("close to the midline", "beside the midline", "far from the midline"),
    "coronal": ("at the back of the head", "in the middle of the head", "at the front of the head"),
    "axial": ("through the lower brain", "through the central brain", "through the upper brain"),
}
ARTICLES = {"sagittal": "A", "coronal": "A", "axial": "An"}
AMOUNTS = ("little", "some", "much")
MARGIN = 8
_MIN_BRAIN = 2500


def build(rng: np.random.Generator, train: int = 360, test: int = 120) -> DemoTask:
    """Build the task.

    A caption names the plane, the level (three bins of the slice's position) and the amount of white matter (three bins
    of its share in grey plus white). Both sets of bins have equal frequency over the slices of the training part, within each plane. The window is moved by up to 8 mm.

    Args:
        rng: Source of all randomness.
        train: Training items, a multiple of 3.
        test: Test items, a multiple of 3.
    """
    t1, grey, white = read_volume(MNI_T1), read_volume(MNI_GREY), read_volume(MNI_WHITE)
    usable = {axis: _usable(t1, axis) for axis in range(3)}
    share = {axis: _white_share(grey, white, axis) for axis in range(3)}
    position = {axis: _position(t1.shape[axis], axis) for axis in range(3)}
    train_slices = {axis: [z for z in usable[axis] if part_of_slice(z) == "train"] for axis in range(3)}
    level_edges = {axis: tercile_edges(position[axis][train_slices[axis]]) for axis in range(3)}
    share_edges = {axis: tercile_edges(share[axis][train_slices[axis]]) for axis in range(3)}
    low, high = _bounds(t1)
    brain = t1[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    side = max(brain.shape) + 2 * MARGIN

    def draw(part: str, rng: np.random.Generator) -> tuple[int, Item]:
        axis = int(rng.integers(3))
        choices = [z for z in usable[axis] if part_of_slice(z) == part]
        index = choices[int(rng.integers(len(choices)))]
        plane = np.moveaxis(brain, axis, 0)[index - low[axis]].T[::-1]
        canvas = np.zeros((side, side), dtype=np.uint8)
        down, across = (int(rng.integers(-MARGIN, MARGIN + 1)) for _ in range(2))
        top, left = (side - plane.shape[0]) // 2 + down, (side - plane.shape[1]) // 2 + across
        canvas[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
        name = PLANES[axis]
        level = LEVELS[name][bin_of(float(position[axis][index]), level_edges[axis])]
        amount = AMOUNTS[bin_of(float(share[axis][index]), share_edges[axis])]
        text = f"{ARTICLES[name]} {name} slice {level} with {amount} white matter."
        box = (-top, side - top, -left, side - left)
        return axis, Item(to_picture(canvas), text, f"{MNI_T1.name}:{name}", index, box)

    return DemoTask(
        name="rad",
        title="Captions of brain slices",
        question="Describe this slice of the brain.",
        options=(),
        train=draw_balanced(lambda r: draw("train", r), 3, train // 3, rng, "rad train"),
        test=draw_balanced(lambda r: draw("test", r), 3, test // 3, rng, "rad test"),
        scorer="bleu",
        modality="radiology",
        max_new_tokens=24,
        steps=160,
        sources=(MNI_T1, MNI_GREY, MNI_WHITE),
        split="slices of each plane in blocks: 11 train, 2 unused, 5 test, 2 unused",
        labels="plane and position of the slice; white / (grey + white) from the template's maps; bins from the training slices",
        notes="captions are computed from geometry and tissue maps; one averaged brain, so neighbouring slices look alike",
        bins={
            f"{PLANES[axis]}_{what}": edges[axis]
            for what, edges in (("position", level_edges), ("white_share", share_edges))
            for axis in range(3)
        },
    )


def _usable(t1: NDArray[np.uint8], axis: int) -> list[int]:
    """Return the slices that show enough brain (more than 25 square centimetres)."""
    area = (t1 > 0).sum(axis=tuple(other for other in range(3) if other != axis))
    return [int(index) for index in np.flatnonzero(area > _MIN_BRAIN)]


def _bounds(t1: NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Return the first and one past the last index of the brain along each axis."""
    places = [np.flatnonzero((t1 > 0).any(axis=tuple(o for o in range(3) if o != axis))) for axis in range(3)]
    return [int(place[0]) for place in places], [int(place[-1]) + 1 for place in places]


def _white_share(grey: NDArray[np.uint8], white: NDArray[np.uint8], axis: int) -> NDArray[np.float64]:
    others = tuple(other for other in range(3) if other != axis)
    amount = white.sum(axis=others, dtype=np.float64)
    return np.asarray(amount / np.maximum(amount + grey.sum(axis=others, dtype=np.float64), 1.0))


def _position(length: int, axis: int) -> NDArray[np.float64]:
    """Return the coordinate that the level names: distance from the middle for sagittal slices, else the index."""
    index = np.arange(length, dtype=np.float64)
    return np.abs(index - (length - 1) / 2) if PLANES[axis] == "sagittal" else index
