"""Files from untrusted sources: regular files only, of bounded size, read with bounded effort.

A stream, a data file, a carry or a picture may have been made to harm its reader: a named pipe that never ends, a
link to another file, a few bytes that unfold to gigabytes. Everything of that kind is opened here. What is refused
raises `OutsideError`, a ValueError whose text says why; a file that is not there stays a FileNotFoundError.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn


if TYPE_CHECKING:
    from PIL.Image import Image


MIB = 2**20
#: Bytes of a stream file or a recipe; PyYAML reads about one mebibyte in ten seconds.
YAML_LIMIT = MIB
#: Bytes of a JSON file that is held in memory as a whole.
JSON_LIMIT = 512 * MIB
_NODES = 100_000  # nodes of a YAML document once its aliases are written out
_CHARACTERS = 4 * MIB  # of its texts, likewise
_DIGITS = 300  # of a whole number; a float cannot hold more than 309
_DEPTH = 200  # of lists and mappings in each other
#: Formats that Pillow reads by itself. Others start programs (EPS: Ghostscript) or are no pictures of a data set.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF")
PICTURE_PIXELS = 200_000_000
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a link"),
)
_LINK = "it is a symbolic link, which is not followed"


class OutsideError(ValueError):
    """Why a file from outside is not read."""


def kind_of(mode: int) -> str | None:
    """What a file is if it is no regular file, else None.

    Args:
        mode: ``st_mode``.
    """
    if stat.S_ISREG(mode):
        return None
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def is_regular(path: Path) -> bool:
    """Whether a path leads to a regular file; False if it cannot be inspected."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def open_regular(path: Path, *, follow: bool = True) -> IO[bytes]:
    """Open a regular file for reading; nothing else is opened, and nothing is waited for.

    Args:
        path: The file.
        follow: Whether the name itself may be a link.

    Raises:
        OutsideError: If it is something else.
        OSError: If it is missing or must not be read.
    """
    mode = (os.stat if follow else os.lstat)(path).st_mode
    if stat.S_ISLNK(mode):
        raise OutsideError(_LINK)
    kind = kind_of(mode)
    if kind is not None:
        raise OutsideError(f"it is {kind}, not a regular file")
    # Between the two calls another file may have taken the name: the opened one is checked again.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutsideError(_LINK) from error
        raise
    file = os.fdopen(handle, "rb")
    kind = kind_of(os.fstat(handle).st_mode)
    if kind is not None:
        file.close()
        raise OutsideError(f"it is {kind}, not a regular file")
    return file


def read_bytes(path: Path, limit: int, *, follow: bool = True) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file.
        limit: Largest size in bytes.
        follow: Whether the name itself may be a link.

    Raises:
        OutsideError: If it is larger, or no regular file.
        OSError: If it is missing or must not be read.
    """
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, limit) + 1)  # a reader reserves what it is asked for
    if len(data) > limit:
        raise OutsideError(f"it is larger than {limit / MIB:g} MiB")
    return data


def read_text(path: Path, limit: int, *, follow: bool = True) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
        OutsideError: As `read_bytes`, and if it is not UTF-8.
        OSError: If it is missing or must not be read.
    """
    try:
        return read_bytes(path, limit, follow=follow).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OutsideError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from error


def parse_json(data: bytes | str) -> Any:
    """A JSON value whose numbers and nesting are of bounded size.

    Raises:
        OutsideError: If they are not.
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(data, parse_int=whole_number)
    except RecursionError as error:
        raise OutsideError("it is nested too deeply") from error


def read_json(path: Path, limit: int = JSON_LIMIT, *, follow: bool = True) -> Any:
    """The JSON value in a regular file; see `read_text` and `parse_json`."""
    return parse_json(read_text(path, limit, follow=follow))


def whole_number(text: str) -> int:
    """A whole number as JSON writes it: the ``parse_int`` of every reader of JSON from outside.

    Raises:
        OutsideError: If it has more digits than any number that a program needs.
    """
    if len(text) > _DIGITS:
        raise OutsideError(f"it contains a number of {len(text)} digits")
    return int(text)


def parse_yaml(text: str) -> Any:
    """A YAML document of plain values, whose aliases, numbers and nesting are of bounded size.

    Aliases cost a few bytes each and may stand for all that was written before; the size of what they stand for is
    computed on the document's nodes, before anything is built from them.

    Raises:
        OutsideError: If it is too large.
        yaml.YAMLError: If it is not YAML.
        ValueError: If a value in it cannot be, such as the date 2001-02-30.
    """
    import yaml

    if len(text) > YAML_LIMIT:
        raise OutsideError(f"it is larger than {YAML_LIMIT / MIB:g} MiB")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, {}, (), 0)
        return loader.construct_document(node)
    except RecursionError as error:
        raise OutsideError("it is nested too deeply") from error
    finally:
        loader.dispose()


def _check_node(node: Any, known: dict[int, tuple[int, int]], above: tuple[int, ...], depth: int) -> tuple[int, int]:
    """Nodes and characters of a YAML node with its aliases written out."""
    import yaml

    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise OutsideError(f"a value in line {node.start_mark.line + 1} contains itself")
    if depth > _DEPTH:
        raise OutsideError("it is nested too deeply")
    count = characters = 1
    if isinstance(node, yaml.ScalarNode):
        characters = len(node.value)
        if node.tag == "tag:yaml.org,2002:int" and characters > _DIGITS:
            raise OutsideError(f"line {node.start_mark.line + 1} contains a number of {characters} digits")
    else:
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        for child in children:
            more, longer = _check_node(child, known, (*above, id(node)), depth + 1)
            count, characters = count + more, characters + longer
    if count > _NODES or characters > _CHARACTERS:
        raise OutsideError("its aliases (`*name`) expand to more than any stream needs")
    known[id(node)] = count, characters
    return known[id(node)]


@contextlib.contextmanager
def open_picture(source: Path | bytes) -> Iterator[Image]:
    """Open a picture with the formats in `PICTURE_FORMATS` only; its pixels are not decoded yet.

    Args:
        source: A file, or the bytes of one. It is closed when the context ends; Pillow does not close what it was
            given open.

    Yields:
        The picture.

    Raises:
        OutsideError: If it is no regular file, or has more than `PICTURE_PIXELS` pixels.
        OSError: If it is not a picture in one of the formats, or is missing.
    """
    import warnings

    from PIL import Image, UnidentifiedImageError

    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
                picture = Image.open(file, formats=[name for name in PICTURE_FORMATS if _known_format(name)])
        except UnidentifiedImageError as error:
            raise OSError(f"is not a picture in one of the formats {', '.join(PICTURE_FORMATS)}") from error
        except Image.DecompressionBombError as error:
            raise OutsideError(str(error)) from error
        with picture:
            if picture.width * picture.height > PICTURE_PIXELS:
                raise OutsideError(f"it has {picture.width} x {picture.height} pixels")
            yield picture


def _known_format(name: str) -> bool:
    from PIL import Image

    Image.init()
    return name in Image.OPEN


def without_ghostscript() -> None:
    """Keep Pillow from starting Ghostscript in this process, also where other libraries open pictures.

    Pillow inspects the content of a file, not its name: a PostScript file called ``scan.png`` is a program, and
    Pillow would pass it to Ghostscript.
    """
    from PIL import EpsImagePlugin

    EpsImagePlugin.gs_binary = False
    EpsImagePlugin.Ghostscript = _not_drawn  # type: ignore[assignment]


def _not_drawn(tile: Any, size: Any, file: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """In the place of Pillow's call of Ghostscript."""
    name = getattr(file, "name", None)
    shown = f"{name} is" if isinstance(name, str) else "it is"
    raise OSError(f"{shown} a PostScript file (EPS), which would need Ghostscript; convert it to PNG")
