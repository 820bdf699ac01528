"""Grey pictures with more than 8 bits, such as X-rays: Pillow's own conversion cuts their values off at 255."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL.Image import Image


def is_wide(picture: Image) -> bool:
    """Whether a grey picture has more than 8 bits. Which mode it has (I, I;16, ...) depends on Pillow's version."""
    return picture.mode == "F" or picture.mode.startswith("I")


def stretched(picture: Image) -> Image:
    """Grey with 8 bits: the lowest value becomes 0, the highest 255.

    How many of the 16 bits are used is not in the file: 12 bits divided by 256 would be nearly black.

    Raises:
        ValueError: If it has values that are no numbers.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(picture, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise ValueError("it has values that are no numbers")
    scaled = (values - low) * (255.0 / (high - low or 1.0))
    return Image.fromarray(np.round(scaled).astype(np.uint8))
