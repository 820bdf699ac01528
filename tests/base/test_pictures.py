"""Pictures from outside: known formats, bounded size, and no file that stays open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from cl_plugins.base import outside
from cl_plugins.base.outside import OutsideError, open_picture


def opened_here() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scan.png"
    Image.new("RGB", (5, 4), (1, 2, 3)).save(path)
    return path


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
@pytest.mark.parametrize("decoded", [False, True])
def test_its_file_is_closed(picture, decoded):
    before = opened_here()
    with open_picture(picture) as image:
        assert opened_here() == before + 1
        if decoded:
            image.load()
    assert image.size == (5, 4)
    assert opened_here() == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_what_is_refused_is_closed_too(picture, tmp_path, monkeypatch):
    before = opened_here()
    monkeypatch.setattr(outside, "PICTURE_PIXELS", 19)
    with pytest.raises(OutsideError, match="5 x 4 pixels") as large, open_picture(picture):
        pass
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(OSError, match="is not a picture in one of the formats") as other, open_picture(text):
        pass
    assert opened_here() == before, (large, other)  # both are alive: the end of their frames closes nothing


def test_bytes_and_formats_that_start_programs(picture, tmp_path):
    with open_picture(picture.read_bytes()) as image:
        assert image.getpixel((0, 0)) == (1, 2, 3)
    drawing = tmp_path / "scan.png"
    Image.open(picture).save(drawing, format="EPS")
    with pytest.raises(OSError, match="is not a picture"), open_picture(drawing):
        pass
