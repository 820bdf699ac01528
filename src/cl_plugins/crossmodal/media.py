"""Reading pictures, videos, sounds and signals: Pillow, NumPy, and PyAV for what is compressed."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv"})


def frames(value: Any, count: int) -> list[Image]:
    """Pictures at equal distances, in RGB.

    Args:
        value: A picture, its file, a list of both, or the file of a video.
        count: How many; of fewer pictures some occur twice.

    Raises:
        ValueError: If there is no picture.
        OSError: If a file cannot be read.
    """
    from PIL import Image

    if isinstance(value, (str, Path)) and Path(value).suffix.lower() in VIDEOS:
        found: list[Any] = _decode(str(value), count)
    else:
        found = list(value) if isinstance(value, (list, tuple)) else [value]
    if not found:
        raise ValueError("there is no picture in it")
    picked = [found[min(len(found) - 1, int((i + 0.5) * len(found) / count))] for i in range(count)]
    pictures = []
    for one in picked:
        if isinstance(one, (str, Path)):
            with Image.open(one) as opened:
                pictures.append(opened.convert("RGB"))
        else:
            pictures.append(one.convert("RGB"))
    return pictures


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
        value: A wave (samples,), or a file: ``.npy`` with a wave of this rate, ``.wav``, or anything that PyAV reads.
        rate: Samples per second of the result.

    Returns:
        (samples,) float32 in [-1, 1].

    Raises:
        ValueError: If there is no sound.
        OSError: If a file cannot be read.
    """
    import numpy as np

    if not isinstance(value, (str, Path)):
        return np.asarray(value, dtype=np.float32).reshape(-1)
    suffix = Path(value).suffix.lower()
    if suffix == ".npy":
        return np.load(value, allow_pickle=False).astype(np.float32).reshape(-1)
    if suffix == ".wav":
        plain = _wav(str(value))
        if plain is not None and plain[1] == rate:
            return plain[0]
    import av

    parts: list[np.ndarray] = []
    with av.open(str(value)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray().reshape(-1) for part in resampler.resample(frame)]
        parts += [part.to_ndarray().reshape(-1) for part in resampler.resample(None)]
    if not parts:
        raise ValueError("there is no sound in it")
    return np.concatenate(parts).astype(np.float32)


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
    """A signal as it is stored, (samples, channels) float32.

    Args:
        value: Numbers (samples, channels) or (samples,), or a file: ``.npy``, or ``.csv`` with an optional line of names.

    Raises:
        ValueError: If it holds no numbers.
        OSError: If a file cannot be read.
    """
    import numpy as np

    if isinstance(value, (str, Path)):
        if Path(value).suffix.lower() == ".npy":
            value = np.load(value, allow_pickle=False)
        else:
            lines = Path(value).read_text(encoding="utf-8").splitlines()
            rows = [line.replace(";", ",").split(",") for line in lines if line.strip()]
            value = [_numbers(row) for row in rows[0 if rows and _numeric(rows[0]) else 1 :]]
    found = np.asarray(value, dtype=np.float32)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ValueError("it holds no table of finite numbers")
    return found


def _numeric(row: Sequence[str]) -> bool:
    try:
        _numbers(row)
    except ValueError:
        return False
    return True


def _numbers(row: Sequence[str]) -> list[float]:
    return [float(cell) for cell in row if cell.strip()]


def signal(value: Any, length: int, channels: int) -> np.ndarray:
    """A signal at an encoder's length, (length, channels) float32, by linear interpolation.

    Args:
        value: See `signal_of`.
        length: Samples of the result.
        channels: Channels that it must have.

    Raises:
        ValueError: If it has another number of channels, or holds no numbers.
        OSError: If a file cannot be read.
    """
    import numpy as np

    found = signal_of(value)
    if found.shape[1] != channels:
        raise ValueError(f"it has {found.shape[1]} channels, and the encoder {channels}")
    if len(found) == length:
        return found
    places = np.linspace(0, len(found) - 1, length)
    columns = [np.interp(places, np.arange(len(found)), found[:, c]) for c in range(channels)]
    return np.stack(columns, axis=1).astype(np.float32)
