"""Pictures, videos and sounds of buffered samples: copied once, named by their content."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem
from ..base.outside import open_regular


KINDS = ("images", "videos", "audios")
MEDIA = "media"
#: Suffixes that a medium may keep in a buffer. Readers inspect the content of a file; one with another suffix loses
#: it.
SUFFIXES = frozenset(
    ".png .jpg .jpeg .webp .gif .bmp .tif .tiff .ppm .pgm .jp2 .avif "
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv "
    ".wav .mp3 .flac .ogg .opus .m4a .aac".split()
)


def map_media(record: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A record with every medium changed; lists, and lists of lists (frames of a video), keep their shape."""

    def walk(value: Any) -> Any:
        return [walk(item) for item in value] if isinstance(value, list) else change(value)

    return {key: walk(value) if key in KINDS and value else value for key, value in record.items()}


def media_names(record: Mapping[str, Any], kind: str | None = None) -> Iterator[Any]:
    """The media of a record, of one kind or of all."""

    def walk(value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            for item in value:
                yield from walk(item)
        else:
            yield value

    for name in KINDS if kind is None else (kind,):
        if record.get(name):
            yield from walk(record[name])


def outside(value: Any, where: str) -> Any:
    """A medium of a training sample, as JSON can hold it until the buffer takes it in.

    Args:
        value: What the host's aligned record holds: a path, an address, ``{"path", "bytes"}``, or a decoded picture.
        where: The sample, for the message.

    Returns:
        ``{"path"}``, or ``{"data", "suffix"}`` with base64.

    Raises:
        DataError: If it is none of these, such as an address: what a buffer passes on must be in it.
    """
    if isinstance(value, str):
        if "://" in value:
            what = f"names {value!r}, which the buffer cannot store."
            raise DataError(Problem(where, what, "Download it and name the file, or turn `cl.replay` off."))
        return {"path": os.path.abspath(value)}
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes):
            return {"data": base64.b64encode(data).decode(), "suffix": Path(path or "").suffix}
        if isinstance(path, str):
            return outside(path, where)
    if hasattr(value, "save") and hasattr(value, "convert"):  # a picture of Pillow, from a column of the type Image
        return {"data": base64.b64encode(_as_png(value)).decode(), "suffix": ".png"}
    what = f"contains a medium of the type {type(value).__name__}, which the buffer cannot store."
    raise DataError(Problem(where, what, "Give media as files, or turn `cl.replay` off."))


def _as_png(picture: Any) -> bytes:
    """A picture without loss; modes that PNG does not know become RGB, as the host makes them."""
    buffer = io.BytesIO()
    kept = picture if picture.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA") else picture.convert("RGB")
    kept.save(buffer, format="PNG")
    return buffer.getvalue()


def take_in(value: Any, folder: Path, media_from: Path | None) -> str:
    """Put one medium into a buffer and give its name there.

    Args:
        value: From `outside`, or a name that an earlier buffer gave.
        folder: The new buffer.
        media_from: The earlier buffer.

    Raises:
        DataError: If the file is gone.
        RunStateError: If the earlier buffer has no such file.
    """
    if isinstance(value, str):
        from .samples import medium

        target = folder / value
        source = medium(media_from or folder, value)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, target)
        return value
    if "data" in value:
        data, suffix = base64.b64decode(value["data"]), str(value["suffix"])
    else:
        path = Path(value["path"])
        try:
            with open_regular(path) as file:
                data, suffix = file.read(), path.suffix
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            what = f"cannot be copied into the replay buffer ({reason})."
            raise DataError(Problem(str(path), what, "Restore it and run the same command again.")) from error
    suffix = suffix.lower() if suffix.lower() in SUFFIXES else ""
    name = f"{MEDIA}/{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    target = folder / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return name
