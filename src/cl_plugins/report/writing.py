"""Where the files of a report go, and the templates they are laid out with."""

from __future__ import annotations

import base64
import csv
import functools
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import style, tables, text


if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from .style import Picture

Write = Callable[[Path, bytes], None]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never half of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes files that only the owner reads; a report is meant to be passed on.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_all(directory: Path, files: Mapping[str, bytes], write: Write | None) -> list[Path]:
    """Write several files into a directory.

    Args:
        directory: Where they go.
        files: Name to content, in the order of writing.
        write: Called with path and bytes; ``None`` for :func:`write_atomically`.

    Returns:
        The paths, in the order of writing.
    """
    put = write or write_atomically
    for name, content in files.items():
        put(directory / name, content)
    return [directory / name for name in files]


def render(template: str, content: Mapping[str, Any]) -> bytes:
    """Fill in one of the package's templates.

    Everything that a template puts in is escaped, in pages (``.html.j2``) as HTML, else as Markdown, unless it is marked
    as such already: a name in a file of a run may be anything.
    """
    page = _environment(".html" in template).get_template(template).render(content)
    return (page.strip("\n") + "\n").encode("utf-8")


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV in UTF-8: unrounded numbers, an empty field for ``None``.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, with which spreadsheets mark texts.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_no_formula(value) for value in row] for row in rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace")


_JOINT = re.compile(r"([_.=/-]+)(?=[^\W\d])")
_LONG = 10  # letters of a word that every column has room for
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _no_formula(value: Any) -> Any:
    """A value of a CSV field that is no formula; texts of numbers stay."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def data_uri(picture: bytes) -> str:
    """A PNG as a ``data:`` address, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def pictures(made: Mapping[str, Picture]) -> dict[str, bytes]:
    """Pictures as files: ``NAME.png`` and ``NAME.pdf``."""
    return {
        f"{name}.{kind}": data for name, each in made.items() for kind, data in (("png", each.png), ("pdf", each.pdf))
    }


def embedded(picture: Picture) -> dict[str, str | float]:
    """A picture for a page: ``light`` and ``dark`` as ``data:`` addresses, and its ``width`` in print, in rem of 1/6 inch."""
    pixels = int.from_bytes(picture.png[16:20], "big")
    return {"light": data_uri(picture.png), "dark": data_uri(picture.dark), "width": 6 * pixels / style.DPI}


def _visible(value: Any) -> Any:
    """What a page puts in, before it is escaped."""
    return text.visible(value) if type(value) is str else value


def _escaped(value: Any) -> str:
    return value if isinstance(value, text.Markdown) else text.markdown(str(value))


def _longest(value: str) -> int:
    """Letters of the longest word of a name."""
    return max(map(len, value.split()), default=0)


def breakable(value: str) -> Markup:
    """A name for a page; a narrow column may break its long words behind ``_``, ``.``, ``=``, ``-`` and ``/``."""
    from markupsafe import Markup, escape

    words = (_JOINT.sub("\\1\0", word) if len(word) > _LONG else word for word in text.visible(value).split(" "))
    return Markup("<wbr>").join(escape(part) for part in " ".join(words).split("\0"))


def _page_prose(value: str) -> Markup:
    """A sentence for a page; what it has between back-ticks becomes code."""
    from markupsafe import Markup

    parts = (
        Markup("<code>{}</code>" if is_code else "{}").format(text.visible(part))
        for part, is_code in text.spans(value)
    )
    return Markup("").join(parts)


@functools.cache
def _environment(page: bool) -> Environment:
    """Jinja with the package's templates, compiled once; an unknown name in a template is an error, not an empty text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cl_plugins.report", "templates"),
        autoescape=page,
        finalize=_visible if page else _escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown_table"] = tables.to_markdown
    environment.filters["md"] = text.markdown
    environment.filters["strong"] = text.strong_prose
    environment.filters["prose"] = _page_prose if page else text.prose
    environment.filters["code"] = text.code
    environment.filters["longest"] = _longest
    environment.filters["breakable"] = breakable
    environment.filters["fenced"] = text.fenced
    return environment
