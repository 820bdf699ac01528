"""Pictures of raw data: read, checked, padded if requested, and stored under a name made from their content."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.outside import OutsideError, open_picture, read_bytes
from ...base.pictures import is_wide, stretched
from . import archives
from .contract import Picture
from .extras import library


#: Bytes in these forms are stored as they came; anything else becomes PNG.
KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
#: Version of the way pictures are changed. Raise it when the same picture is stored otherwise.
VERSION = 2
#: Mean colour of CLIP's training pictures, with which LLaVA pads.
PAD_COLOUR = (122, 116, 104)
_QUALITY = 95


class BadPicture(Exception):
    """A picture that cannot be used: ``reason`` is counted, ``str()`` says what is special about this one."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@dataclass(frozen=True)
class ImageRules:
    """How pictures are stored.

    Attributes:
        pad_square: Pad to a square with `PAD_COLOUR`, the picture in the middle, as LLaVA does.
        max_megapixels: Larger ones are not decoded.
        max_bytes: Largest picture file.
    """

    pad_square: bool = False
    max_megapixels: float = 50.0
    max_bytes: int = archives.PICTURE_LIMIT


def store(picture: Picture, out: Path, folder: str, rules: ImageRules) -> str:
    """Check a picture and store it.

    Pictures that need no change keep their bytes. The name is made from the stored bytes, so equal pictures share
    a file, and a file of that name is known to be right.

    Args:
        picture: What to store.
        out: The data folder.
        folder: Folder of the pictures, relative to ``out``.
        rules: How.

    Returns:
        Path relative to ``out``, with forward slashes.

    Raises:
        BadPicture: It cannot be used.
    """
    data, suffix = encode(picture, rules)
    digest = hashlib.sha256(data).hexdigest()
    relative = f"{folder}/{digest[:2]}/{digest[:24]}.{suffix}"
    path = out / relative
    try:
        if path.stat().st_size == len(data):
            return relative
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    # No flush per picture: a machine that fails leaves a short file, which is looked for when the work continues.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return relative


def encode(picture: Picture, rules: ImageRules) -> tuple[bytes, str]:
    """The bytes to store and their suffix.

    Raises:
        BadPicture: It cannot be used.
    """
    if picture.problem:
        raise BadPicture("picture cannot be read", f"{picture.name!r} {picture.problem}")
    image_module: Any = library("PIL.Image")
    if picture.array is not None:
        image = image_module.fromarray(picture.array)
        _check_size(picture, image.size, rules)
        if rules.pad_square:
            image = _padded(image, image_module)
        return _save(image, "JPEG" if picture.lossy else "PNG")
    data = _bytes(picture, rules)
    with warnings.catch_warnings():
        # Our own limit is checked before anything is decoded; warnings about EXIF blocks are not useful here.
        warnings.simplefilter("ignore")
        try:
            with open_picture(data) as image:
                _check_size(picture, image.size, rules)
                form = str(image.format)
                image.load()
                if form in KEPT and not is_wide(image) and not (rules.pad_square and _oblong(image)):
                    return data, KEPT[form]
                flat = stretched(image) if is_wide(image) else _eight_bits(image)
                if rules.pad_square:
                    flat = _padded(flat, image_module)
                return _save(flat, "JPEG" if form == "JPEG" else "PNG")
        except BadPicture:
            raise
        except (image_module.DecompressionBombError, OutsideError) as error:
            raise BadPicture("picture is too large", f"{picture.name!r}: {error}") from error
        except (
            OSError,
            ValueError,
            SyntaxError,
            IndexError,
            TypeError,
            EOFError,
            OverflowError,
            MemoryError,
        ) as error:
            # Pillow raises all of these for damaged files, depending on the form.
            raise BadPicture("picture cannot be decoded", f"{picture.name!r}: {error}") from error


def _bytes(picture: Picture, rules: ImageRules) -> bytes:
    if picture.data is not None:
        data = picture.data
    elif picture.part:
        try:
            data = archives.read_member(picture.path or Path(), picture.part, rules.max_bytes)
        except KeyError as error:
            raise BadPicture("picture is missing", f"{picture.name!r}") from error
        except ValueError as error:
            raise BadPicture("picture cannot be read", f"{picture.name!r}: {error}") from error
    else:
        path = picture.path or Path()
        try:
            if path.stat().st_size > rules.max_bytes:
                raise BadPicture("picture is too large", f"{picture.name!r} has {path.stat().st_size} bytes")
            data = read_bytes(path, rules.max_bytes)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadPicture("picture is missing", f"{picture.name!r}") from error
        except (OSError, OutsideError) as error:
            raise BadPicture("picture cannot be read", f"{picture.name!r}: {error}") from error
    if len(data) > rules.max_bytes:
        raise BadPicture("picture is too large", f"{picture.name!r} has {len(data)} bytes")
    return data


def _check_size(picture: Picture, size: tuple[int, int], rules: ImageRules) -> None:
    width, height = size
    if width * height > rules.max_megapixels * 1e6:
        what = f"{picture.name!r} has {width} x {height} pixels; the limit is {rules.max_megapixels:g} megapixels"
        raise BadPicture("picture is too large", what)
    if min(size) < 1:
        raise BadPicture("picture cannot be decoded", f"{picture.name!r} has no pixels")


def _oblong(image: Any) -> bool:
    return bool(image.size[0] != image.size[1])


def _eight_bits(image: Any) -> Any:
    """RGB or grey with 8 bits."""
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _padded(image: Any, image_module: Any) -> Any:
    if not _oblong(image):
        return image
    side = max(image.size)
    square = image_module.new("RGB", (side, side), PAD_COLOUR)
    square.paste(image.convert("RGB"), ((side - image.size[0]) // 2, (side - image.size[1]) // 2))
    return square


def _save(image: Any, form: str) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    if form == "JPEG":
        image.convert("L" if image.mode == "L" else "RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue(), KEPT[form]
