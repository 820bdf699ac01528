"""Neuro: which tissue a red box marks on a slice of an averaged brain. It replaces a surgical task."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .items import SIDE, DemoTask, Item, draw_balanced, letter, to_picture
from .sources import MNI_GREY, MNI_T1, MNI_WHITE, read_volume


CROP = 48
BOX = 9
PERIOD, TRAIN_SLICES, GAP = 20, 11, 2
_PURE, _NONE = 0.8, 0.1
_RED = (255, 0, 0)


def part_of_slice(index: int) -> str | None:
    """Return "train", "test" or None (gap): of 20 neighbouring slices 11 train, 5 test, 2 between them are unused."""
    place = index % PERIOD
    if place < TRAIN_SLICES:
        return "train"
    if TRAIN_SLICES + GAP <= place < PERIOD - GAP:
        return "test"
    return None


def build(rng: np.random.Generator, train: int = 480, test: int = 150) -> DemoTask:
    """Build the task.

    Axial slices of the MNI152 T1 average at 1 mm. The crop is 48 mm wide and shrinks to 32 pixels; a red square of 9
    pixels is drawn around the voxel at a random place in it. The label is the tissue that fills the 5 mm around the voxel: grey or white matter where
    its map is at least 0.8 on average there, fluid where both are at most 0.1 and the template is not empty.

    Args:
        rng: Source of all randomness.
        train: Training items, a multiple of 3.
        test: Test items, a multiple of 3.
    """
    t1 = read_volume(MNI_T1)
    tissue = tissue_map(t1, read_volume(MNI_GREY), read_volume(MNI_WHITE))
    places = {
        part: [np.argwhere((tissue == index) & _in_part(t1.shape[2], part)[None, None, :]) for index in range(3)]
        for part in ("train", "test")
    }

    def draw(part: str, rng: np.random.Generator) -> tuple[int, Item] | None:
        index = int(rng.integers(3))
        x, y, z = (int(value) for value in places[part][index][rng.integers(len(places[part][index]))])
        # The box stays inside the crop, anywhere in it: its place says nothing about the tissue.
        down, across = (int(rng.integers(BOX // 2, SIDE - BOX // 2)) for _ in range(2))
        plane = np.ascontiguousarray(t1[:, ::-1, z].T)
        row, column = plane.shape[0] - 1 - y, x
        top, left = row - round((down + 0.5) * CROP / SIDE), column - round((across + 0.5) * CROP / SIDE)
        if top < 0 or left < 0 or top + CROP > plane.shape[0] or left + CROP > plane.shape[1]:
            return None
        image = mark(to_picture(plane[top : top + CROP, left : left + CROP]), down, across)
        return index, Item(image, letter(index), f"{MNI_T1.name}:axial", z, (top, top + CROP, left, left + CROP))

    return DemoTask(
        name="neuro",
        title="Which tissue does the red box mark?",
        question="Which tissue is inside the red box?",
        options=("grey matter", "white matter", "fluid"),
        train=draw_balanced(lambda r: draw("train", r), 3, train // 3, rng, "neuro train"),
        test=draw_balanced(lambda r: draw("test", r), 3, test // 3, rng, "neuro test"),
        scorer="choice_accuracy",
        modality="radiology",
        max_new_tokens=4,
        steps=60,
        sources=(MNI_T1, MNI_GREY, MNI_WHITE),
        split="axial slices in blocks: 11 train, 2 unused, 5 test, 2 unused",
        labels="tissue maps of the template, averaged over 5 mm in the slice: grey or white >= 0.8; fluid: both <= 0.1",
        notes="one averaged brain, so neighbouring slices look alike; replaces a surgical task",
    )


def tissue_map(t1: NDArray[np.uint8], grey: NDArray[np.uint8], white: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return 0 (grey), 1 (white), 2 (fluid) or -1 (mixed or outside) for every voxel.

    Args:
        t1: (x, y, z) uint8, zero outside the brain.
        grey: Grey-matter map, same shape, 255 is certain.
        white: White-matter map, same shape, 255 is certain.
    """
    from scipy.ndimage import minimum_filter, uniform_filter

    window = (5, 5, 1)
    mean_grey = uniform_filter(grey.astype(np.float32) / 255, window)
    mean_white = uniform_filter(white.astype(np.float32) / 255, window)
    inside = minimum_filter(t1, size=window) > 0
    label = np.full(t1.shape, -1, dtype=np.int8)
    label[inside & (mean_grey <= _NONE) & (mean_white <= _NONE)] = 2
    label[inside & (mean_grey >= _PURE)] = 0
    label[inside & (mean_white >= _PURE)] = 1
    return label


def mark(picture: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """Return the picture with a red square, one pixel thick and ``BOX`` wide, centred on (row, column)."""
    marked, reach = picture.copy(), BOX // 2
    top, bottom, left, right = row - reach, row + reach, column - reach, column + reach
    marked[[top, bottom], left : right + 1] = _RED
    marked[top : bottom + 1, [left, right]] = _RED
    return marked


def _in_part(length: int, part: str) -> NDArray[np.bool_]:
    return np.array([part_of_slice(index) == part for index in range(length)])
