"""One picture stands for all where a test is not about pictures: drawing takes more than half of the time of a short run."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from PIL import Image

from cl_plugins.report import style


_RENDER = style.render


def _png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (640, 480), shade).save(file, "PNG")
    return file.getvalue()


PICTURE = style.Picture(png=_png(255), pdf=b"%PDF-1.4\n%%EOF\n", dark=_png(0))


def stand_in(draw: Any) -> style.Picture:
    """In place of `cl_plugins.report.style.render`."""
    return PICTURE


@contextmanager
def not_drawn() -> Iterator[None]:
    """No picture is drawn meanwhile."""
    with mock.patch.object(style, "render", stand_in):
        yield


@contextmanager
def drawn() -> Iterator[None]:
    """Pictures are drawn meanwhile, as in a user's process."""
    with mock.patch.object(style, "render", _RENDER):
        yield
