"""Replay where a task's pictures are files and another's are bytes or pictures inside a table."""

from __future__ import annotations

import base64
import io

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from cl_plugins.host.training_rows import joined
from cl_plugins.replay.media import outside


def png(colour):
    buffer = io.BytesIO()
    Pillow.new("RGB", (4, 4), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def rows(media):
    return [{"input_ids": [1], "images": [medium]} for medium in media]


@pytest.mark.parametrize("form", ["bytes", "pictures", "files"])
def test_the_buffer_joins_a_training_set_of_every_form(tmp_path, form):
    kept = tmp_path / "kept.png"
    kept.write_bytes(png("red"))
    ids = {"input_ids": List(Value("int32"))}
    struct = {"images": List({"bytes": Value("binary"), "path": Value("string")})}
    if form == "files":
        (tmp_path / "own.png").write_bytes(png("blue"))
        own = Dataset.from_list(rows([str(tmp_path / "own.png")]), Features({**ids, "images": List(Value("string"))}))
    else:
        own = Dataset.from_list(rows([{"bytes": png("blue"), "path": None}]), Features({**ids, **struct}))
        if form == "pictures":
            own = own.cast_column("images", List(Image()))
    memory = Dataset.from_list(rows([str(kept)] * 2), Features({**ids, "images": List(Value("string"))}))
    found = joined(own, memory, [1, 0, 1])
    assert len(found) == 4
    assert [_colour(row["images"][0]) for row in found] == [(0, 0, 255), *[(255, 0, 0)] * 3]


def _colour(medium):
    """A picture as the host opens it."""
    if isinstance(medium, str):
        medium = Pillow.open(medium)
    elif isinstance(medium, dict):
        medium = Pillow.open(io.BytesIO(medium["bytes"]) if medium["bytes"] is not None else medium["path"])
    return medium.convert("RGB").getpixel((0, 0))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_a_decoded_picture_is_kept_without_loss(mode):
    picture = Pillow.new("RGB", (2, 2), (10, 200, 30)).convert(mode)
    found = outside(picture, "sample")
    again = Pillow.open(io.BytesIO(base64.b64decode(found["data"])))
    assert found["suffix"] == ".png"
    assert again.convert("RGB").tobytes() == picture.convert("RGB").tobytes()
