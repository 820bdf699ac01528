"""Path: how a patch of tissue is stained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .items import DemoTask, Item, draw_balanced, letter, to_picture, turn
from .sources import HISTO, IHC, read_rgb


PATCH = 48
TRAIN_SHARE = 0.7
GUARD = 16
_DAB = 2


def build(rng: np.random.Generator, train: int = 480, test: int = 150) -> DemoTask:
    """Build the task.

    Patches of 48 pixels. A third comes from the H&E section; the others from the IHC section, in two bins of the mean
    DAB stain (Ruifrok and Johnston's colour deconvolution, ``skimage.color.rgb2hed``), split at the median of the
    training part. Training uses the left 70 % of each picture, testing what lies right of a gap of 16 pixels.

    Args:
        rng: Source of all randomness.
        train: Training items, a multiple of 3.
        test: Test items, a multiple of 3.
    """
    from skimage.color import rgb2hed

    histo, ihc = read_rgb(HISTO), read_rgb(IHC)
    dab = np.asarray(rgb2hed(ihc), dtype=np.float64)[..., _DAB]
    edge = float(np.median(_all_means(dab[:, slice(*_columns(ihc, training=True))])))

    def draw(training: bool, rng: np.random.Generator) -> tuple[int, Item]:
        source, picture = (HISTO, histo) if rng.random() < 1 / 3 else (IHC, ihc)
        left, right = _columns(picture, training)
        top = int(rng.integers(0, picture.shape[0] - PATCH + 1))
        column = int(rng.integers(left, right - PATCH + 1))
        window = (slice(top, top + PATCH), slice(column, column + PATCH))
        index = 0 if source is HISTO else 1 + int(dab[window].mean() >= edge)
        image = turn(to_picture(picture[window]), int(rng.integers(8)))
        return index, Item(image, letter(index), source.name, 0, (top, top + PATCH, column, column + PATCH))

    return DemoTask(
        name="path",
        title="How is this tissue stained?",
        question="How is this tissue stained?",
        options=("pink and purple dyes", "little brown stain", "much brown stain"),
        train=draw_balanced(lambda r: draw(True, r), 3, train // 3, rng, "path train"),
        test=draw_balanced(lambda r: draw(False, r), 3, test // 3, rng, "path test"),
        scorer="choice_accuracy",
        modality="pathology",
        max_new_tokens=4,
        steps=60,
        sources=(IHC, HISTO),
        split="left 70 % of each picture for training, the rest behind a gap of 16 pixels for testing",
        labels="which section; mean DAB by colour deconvolution, split at the median of the training part",
        notes="labels are computed, not given by experts; two sections only; colour alone is enough",
        bins={"mean_dab": [edge]},
    )


def _columns(picture: NDArray[np.uint8], training: bool) -> tuple[int, int]:
    border = int(picture.shape[1] * TRAIN_SHARE)
    return (0, border) if training else (border + GUARD, picture.shape[1])


def _all_means(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of every PATCH x PATCH window (by an integral image)."""
    total = np.pad(plane.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[PATCH:, PATCH:] - total[:-PATCH, PATCH:] - total[PATCH:, :-PATCH] + total[:-PATCH, :-PATCH]
    return np.asarray(sums / PATCH**2)
