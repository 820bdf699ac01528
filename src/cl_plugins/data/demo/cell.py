"""Cell: how many nuclei a crop of a fluorescence picture shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .items import DemoTask, Item, bin_of, count_edges, draw_balanced, letter, to_picture, turn
from .sources import NUCLEI, NUCLEI_MASK, read_plane


CROP = 128
TEST_SHARE = 0.35
GUARD = 16


def build(rng: np.random.Generator, train: int = 480, test: int = 150) -> DemoTask:
    """Build the task.

    Crops of 128 pixels (the smallest at which every bin that has two edges is two counts wide; at 96 the middle bin is a
    single number). A nucleus counts if at least half of its area lies inside (instance masks of the data set). The
    counts of all crops of the training part are cut into three bins as equal as whole numbers allow. The test part is
    the strip (35 % of the picture, at one of its four borders) whose density of nuclei is nearest to that of the rest, so
    that all three bins occur in both parts; a gap of 16 pixels lies between them.

    Args:
        rng: Source of all randomness.
        train: Training items, a multiple of 3.
        test: Test items, a multiple of 3.
    """
    picture, mask = read_plane(NUCLEI), read_plane(NUCLEI_MASK)
    border = held_out_border(mask)
    area = {part: _part(mask.shape, border, part == "train") for part in ("train", "test")}
    top, bottom, left, right = area["train"]
    counts = count_nuclei(mask)
    edges = count_edges(counts[top : bottom - CROP + 1, left : right - CROP + 1])
    # Scale from the training part alone; the root lifts dim nuclei next to a few very bright ones.
    black, white = np.percentile(picture[top:bottom, left:right], [5, 99])
    grey = (np.sqrt(np.clip((picture - black) / (white - black), 0, 1)) * 255).astype(np.uint8)

    def draw(part: str, rng: np.random.Generator) -> tuple[int, Item]:
        top, bottom, left, right = area[part]
        row, column = int(rng.integers(top, bottom - CROP + 1)), int(rng.integers(left, right - CROP + 1))
        index = bin_of(int(counts[row, column]), edges)
        image = turn(to_picture(grey[row : row + CROP, column : column + CROP]), int(rng.integers(8)))
        return index, Item(image, letter(index), NUCLEI.name, 0, (row, row + CROP, column, column + CROP))

    low, high = int(edges[0]), int(edges[1])
    middle = f"{low} nuclei" if high == low + 1 else f"{low} to {high - 1} nuclei"
    return DemoTask(
        name="cell",
        title="How many nuclei are there?",
        question="How many nuclei are in this picture?",
        options=(f"{low - 1} nuclei or fewer", middle, f"{high} nuclei or more"),
        train=draw_balanced(lambda r: draw("train", r), 3, train // 3, rng, "cell train"),
        test=draw_balanced(lambda r: draw("test", r), 3, test // 3, rng, "cell test"),
        scorer="choice_accuracy",
        modality="microscopy",
        max_new_tokens=4,
        steps=60,
        sources=(NUCLEI, NUCLEI_MASK),
        split=f"the {border} 35 % of the picture for testing, a gap of 16 pixels, the rest for training",
        labels="nuclei with at least half of their area inside, counted on the instance masks; bins from the training part",
        notes="one picture with 125 nuclei, so crops overlap each other within a part",
        bins={"nuclei": edges},
    )


def held_out_border(mask: NDArray[np.int64]) -> str:
    """Return the border ("top", "bottom", "left", "right") whose strip is most like the rest in density of nuclei.

    Args:
        mask: (h, w) instance numbers, 0 is background. No picture and no model is used.
    """
    from scipy.ndimage import center_of_mass

    numbers = np.unique(mask)[1:]
    rows, columns = np.array(center_of_mass(mask > 0, mask, numbers)).T
    height, width = mask.shape
    inside = {
        "top": rows < height * TEST_SHARE,
        "bottom": rows >= height * (1 - TEST_SHARE),
        "left": columns < width * TEST_SHARE,
        "right": columns >= width * (1 - TEST_SHARE),
    }
    return min(inside, key=lambda name: abs(float(inside[name].mean()) - TEST_SHARE))


def count_nuclei(mask: NDArray[np.int64], crop: int = CROP) -> NDArray[np.int64]:
    """Count, for every crop, the nuclei with at least half of their area inside it.

    Args:
        mask: (h, w) instance numbers, 0 is background.
        crop: Side of the crop in pixels.

    Returns:
        (h - crop + 1, w - crop + 1) counts; entry (r, c) is the crop whose upper left corner is (r, c).
    """
    counts = np.zeros((mask.shape[0] - crop + 1, mask.shape[1] - crop + 1), dtype=np.int64)
    for number in np.unique(mask)[1:]:
        total = np.pad((mask == number).astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        inside = total[crop:, crop:] - total[:-crop, crop:] - total[crop:, :-crop] + total[:-crop, :-crop]
        counts += 2 * inside >= total[-1, -1]
    return counts


def _part(shape: tuple[int, ...], border: str, training: bool) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of the training or test part."""
    height, width = shape
    length = height if border in ("top", "bottom") else width
    strip = int(length * TEST_SHARE)
    if border in ("top", "left"):
        low, high = (strip + GUARD, length) if training else (0, strip)
    else:
        low, high = (0, length - strip - GUARD) if training else (length - strip, length)
    return (low, high, 0, width) if border in ("top", "bottom") else (0, height, low, high)
