"""What can be told of media before they are used, from the first bytes of a file: that it can be read, and how long it is.

Numbers that stand in a record, and small files of numbers, are read whole.
"""

from __future__ import annotations

import wave
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import media


if TYPE_CHECKING:
    import numpy as np


#: Bytes of a file of numbers up to which all of it is read and not only its header.
SMALL = 256 * 1024


@lru_cache(maxsize=65536)
def look(path: str) -> None:
    """Open a picture or a video, without decoding it.

    Args:
        path: The file.

    Raises:
        OSError: If it is none, or empty.
        ValueError: The same.
    """
    if Path(path).suffix.lower() in media.VIDEOS:
        _duration(path, "video")
        return
    from PIL import Image

    with Image.open(path):
        pass


def sound_samples(value: Any, rate: int) -> float | None:
    """How many samples a sound has at a rate; None where its file does not say it.

    Args:
        value: See `media.sound`.
        rate: Samples per second.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If it holds no sound.
    """
    if not isinstance(value, str | Path):
        return float(len(media.sound(value, rate)))
    path = str(value)
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        found = _array(path)
        return float(len(media.sound(path, rate)) if found is None else max(found.shape))
    if suffix == ".wav":
        try:
            with wave.open(path, "rb") as file:
                return file.getnframes() * rate / file.getframerate()
        except (wave.Error, EOFError):  # another form, which PyAV may read
            pass
    seconds = _duration(path, "audio")
    return None if seconds is None else seconds * rate


def check_signal(value: Any, channels: int) -> None:
    """Look at a signal.

    Args:
        value: See `media.signal_of`.
        channels: Channels that it must have.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If it has another number of channels, or holds no numbers.
    """
    path = str(value) if isinstance(value, str | Path) else None
    if path is not None and Path(path).suffix.lower() == ".npy" and (found := _array(path)) is not None:
        given = found.shape[1] if found.ndim == 2 else 1
        if found.ndim not in (1, 2) or given != channels:
            raise ValueError(f"it has the shape {found.shape}, and the encoder {channels} channels")
    elif path is None or Path(path).stat().st_size <= SMALL:
        media.signal(value, 1, channels)


def _array(path: str) -> np.ndarray | None:
    """A large array, of which only the header is read; None for one that is small enough to read whole."""
    import numpy as np

    if Path(path).stat().st_size <= SMALL:
        return None
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype.kind not in "fiub" or not found.size:
        raise ValueError("it holds no numbers")
    return found


@lru_cache(maxsize=65536)
def _duration(path: str, kind: str) -> float | None:
    """Seconds of a compressed file; None where it does not say them."""
    import av

    with av.open(path) as container:
        found, seconds = getattr(container.streams, kind), container.duration
    if not found:
        raise ValueError(f"there is no {'picture' if kind == 'video' else 'sound'} in it")
    return None if seconds is None else float(seconds / av.time_base)
