"""Reading pictures, videos, sounds and signals: Pillow, NumPy, and PyAV for what is compressed."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.pictures import is_wide, stretched
from .tables import Names, read_table, shown


if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv"})
_PAGED = frozenset({"TIFF", "GIF", "PNG", "WEBP"})


def frames(value: Any, count: int) -> list[Image]:
    """Pictures at equal distances, in RGB; grey ones with more than 8 bits are stretched to 8.

    Args:
        value: A picture, its file, a list of both, or the file of a video.
        count: How many; of fewer pictures some occur twice. Of one file of a TIFF with pages, or an animated GIF, PNG or
            WebP, more than one are taken as of a video; in a list, and with 1, its first page counts.

    Raises:
        ValueError: If there is no picture.
        OSError: If a file cannot be read.
    """
    if isinstance(value, (str, Path)) and Path(value).suffix.lower() in VIDEOS:
        found: list[Any] = _decode(str(value), count)
    else:
        found = list(value) if isinstance(value, (list, tuple)) else [value]
    if count > 1 and len(found) == 1:
        found = _pages(found[0])
    if not found:
        raise ValueError("there is no picture in it")
    picked = [found[min(len(found) - 1, int((i + 0.5) * len(found) / count))] for i in range(count)]
    return [_picture(one) for one in picked]


def _pages(one: Any) -> list[Any]:
    """The pages of a file of pictures, each with its number; a picture as it is."""
    from PIL import Image

    if not isinstance(one, (str, Path)):
        return [one]
    with Image.open(one) as opened:
        # the further pictures of a photo (MPO) are previews and other views of it
        pages = getattr(opened, "n_frames", 1) if opened.format in _PAGED else 1
    return [(one, page) for page in range(pages)]


def _picture(one: Any) -> Image:
    """A picture, its file, or a file and the number of a page, in RGB."""
    from PIL import Image

    if not isinstance(one, (str, Path, tuple)):
        return _rgb(one)
    file, page = one if isinstance(one, tuple) else (one, 0)
    with Image.open(file) as opened:
        if page:
            opened.seek(page)
        return _rgb(opened)


def _rgb(picture: Image) -> Image:
    return (stretched(picture) if is_wide(picture) else picture).convert("RGB")


def _decode(path: str, count: int) -> list[Any]:
    """About ``count`` frames of a video at equal distances; all if it does not say how many it has."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        total = stream.frames or 0
        wanted = {int((i + 0.5) * total / count) for i in range(count)} if total > count else None
        found = []
        for number, frame in enumerate(container.decode(stream)):
            if wanted is None or number in wanted:
                found.append(frame.to_image())
            if wanted is not None and number >= max(wanted):
                break
    return found


def sound(value: Any, rate: int) -> np.ndarray:
    """A sound as one channel.

    Args:
        value: A wave (samples,) or (samples, channels), or a file: ``.npy`` with a wave of this rate, ``.wav``, or anything
            that PyAV reads. Whole numbers of 8 to 32 bits are scaled as those of a WAV, and channels are averaged.
        rate: Samples per second of the result.

    Returns:
        (samples,) float32 in [-1, 1].

    Raises:
        ValueError: If there is no sound, or it has values that are no finite numbers.
        OSError: If a file cannot be read.
    """
    import numpy as np

    if not isinstance(value, (str, Path)):
        found = _mono(np.asarray(value))
    elif Path(value).suffix.lower() == ".npy":
        found = _mono(np.load(value, allow_pickle=False))
    else:
        plain = _wav(str(value)) if Path(value).suffix.lower() == ".wav" else None
        found = plain[0] if plain is not None and plain[1] == rate else _decoded_sound(str(value), rate)
    if not found.size:
        raise ValueError("there is no sound in it")
    if not np.isfinite(found).all():
        raise ValueError("it has values that are no finite numbers")
    return found


def _mono(values: np.ndarray) -> np.ndarray:
    """A wave as one channel in [-1, 1]; of two dimensions the longer one is time."""
    import numpy as np

    if values.ndim not in (1, 2) or values.dtype.kind not in "iuf":
        raise ValueError(f"it is no wave: {values.ndim} dimensions of {values.dtype}")
    if values.dtype.kind != "f":
        if values.dtype.itemsize < 8:
            most = 2.0 ** (8 * values.dtype.itemsize - 1)
            values = values.astype(np.float64) / most - (values.dtype.kind == "u")
        elif values.size and np.abs(values).max() > 1:
            raise ValueError("it has whole numbers whose largest value is not known; give floats in [-1, 1]")
    found = values.astype(np.float32)
    if found.ndim == 2:
        found = found.mean(axis=1 if found.shape[0] >= found.shape[1] else 0)
    return found


def _decoded_sound(path: str, rate: int) -> np.ndarray:
    import av
    import numpy as np

    parts: list[np.ndarray] = []
    with av.open(path) as container:
        if not container.streams.audio:
            raise ValueError("there is no sound in it")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray().reshape(-1) for part in resampler.resample(frame)]
        if parts:
            parts += [part.to_ndarray().reshape(-1) for part in resampler.resample(None)]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, dtype=np.float32)


def _wav(path: str) -> tuple[np.ndarray, int] | None:
    """A WAV of 16-bit samples and its rate; None for other forms."""
    import numpy as np

    try:
        with wave.open(path, "rb") as file:
            if file.getsampwidth() != 2:
                return None
            data = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
            return data.reshape(-1, file.getnchannels()).mean(axis=1), file.getframerate()
    except wave.Error:
        return None


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write one channel as 16-bit WAV.

    Args:
        path: The file.
        samples: (samples,) in [-1, 1].
        rate: Samples per second.
    """
    import numpy as np

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def signal_of(value: Any) -> np.ndarray:
    """A signal as it is stored, (samples, channels) float32; see `named_signal`."""
    return named_signal(value)[0]


def named_signal(value: Any) -> tuple[np.ndarray, Names | None]:
    """A signal as it is stored, (samples, channels) float32, and the names of its channels, where a file has them.

    Args:
        value: Numbers (samples, channels) or (samples,), or a file: ``.npy``, or a table (`tables.read_table`).

    Raises:
        ValueError: If it holds no numbers.
        OSError: If a file cannot be read.
    """
    import numpy as np

    names = None
    if isinstance(value, (str, Path)):
        if Path(value).suffix.lower() == ".npy":
            value = np.load(value, allow_pickle=False)
        else:
            value, names = read_table(Path(value))
    found = np.asarray(value, dtype=np.float32)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ValueError("it holds no table of finite numbers")
    return found, names


def signal(value: Any, length: int, channels: int, names: Names | None = None) -> np.ndarray:
    """A signal at an encoder's length, (length, channels) float32, by linear interpolation.

    Args:
        value: See `named_signal`.
        length: Samples of the result.
        channels: Channels that it must have.
        names: Names that its channels must have, if it has any.

    Raises:
        ValueError: If it has other channels, or holds no numbers.
        OSError: If a file cannot be read.
    """
    import numpy as np

    found, own = named_signal(value)
    if found.shape[1] != channels:
        raise ValueError(f"it has {found.shape[1]} channels, and the encoder {channels}")
    if names is not None and own is not None and own != names:
        raise ValueError(f"its columns are {shown(own)}, and those of the files before it {shown(names)}")
    if len(found) == length:
        return found
    places = np.linspace(0, len(found) - 1, length)
    columns = [np.interp(places, np.arange(len(found)), found[:, c]) for c in range(channels)]
    return np.stack(columns, axis=1).astype(np.float32)
