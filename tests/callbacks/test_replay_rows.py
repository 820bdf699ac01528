"""Rows of anybody's data set go into the buffer and come out as the collator got them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cl_plugins.adapters.carry import CarryWriter
from cl_plugins.errors import DataError
from cl_plugins.replay import store
from cl_plugins.replay.rows import STATISTIC, StoredRows, TrainerRows
from cl_plugins.replay.store import Buffer, Sample


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text().filter(lambda k: not k.startswith("$")), inner) | st.tuples(inner)
    ),
    max_leaves=8,
)


def sample(index, task="one"):
    return Sample(
        f"{task}:{index}", str(index), task, "", index, 0.5, "random", None, None, "2026-01-01T00:00:00+00:00"
    )


def through_the_disk(folder, rows):
    """What comes back of some rows."""
    given_rows = TrainerRows(rows, None, None, "one")
    entries = [(sample(i), given_rows.record(i)) for i in range(len(rows))]
    store.write_candidates(folder / "candidates.json", entries)
    tensors = {
        f"{s.uid}/{n}": value for i, (s, _) in enumerate(entries) for n, value in enumerate(given_rows.tensors(i))
    }
    (folder / "carry").mkdir()
    writer = CarryWriter(folder / "carry")
    store.write(writer, store.read_candidates(folder / "candidates.json"), {}, tensors={STATISTIC: tensors})
    stored = StoredRows(Buffer(folder / "carry" / "replay", tuple(s for s, _ in entries)))
    return [stored[i] for i in range(len(stored))]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(PLAIN, min_size=1, max_size=4))
def test_plain_values_come_back(tmp_path_factory, rows):
    assert through_the_disk(tmp_path_factory.mktemp("rows"), rows) == rows


def picture(mode):
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pictures_come_back_bit_by_bit(tmp_path, mode):
    given_picture = picture(mode)
    (row,) = through_the_disk(tmp_path, [{"turns": [{"pictures": (given_picture,)}]}])
    back = row["turns"][0]["pictures"][0]
    assert (back.mode, back.size) == (given_picture.mode, given_picture.size)
    assert np.array_equal(np.asarray(back), np.asarray(given_picture))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_come_back_with_their_type(tmp_path, kind):
    value = (torch.arange(12).reshape(3, 4) % 2 + 0.25).to(kind)
    rows = through_the_disk(tmp_path, [{"a": value, "b": [value.T], "n": math.inf}, {"a": value + value}])
    assert rows[0]["a"].dtype == kind
    assert torch.equal(rows[0]["a"], value)
    assert torch.equal(rows[0]["b"][0], value.T)
    assert torch.equal(rows[1]["a"], value + value)
    assert rows[0]["n"] == math.inf


def test_arrays_scalars_and_bytes_come_back(tmp_path):
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    (row,) = through_the_disk(tmp_path, [{"a": array, "n": np.int64(3), "x": np.float32(0.5), "raw": b"\x00\xff"}])
    assert isinstance(row["a"], np.ndarray)
    assert row["a"].dtype == array.dtype
    assert np.array_equal(row["a"], array)
    assert (row["n"], row["x"], row["raw"]) == (3, 0.5, b"\x00\xff")


def test_a_row_that_changes_does_not_change_the_buffer(tmp_path):
    (row,) = [through_the_disk(tmp_path, [{"a": torch.zeros(3)}])]
    stored = StoredRows(Buffer(tmp_path / "carry" / "replay", (sample(0),)))
    stored[0]["a"] += 1
    assert torch.equal(stored[0]["a"], row[0]["a"])


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"meta": {"when": object()}}, r"row\.meta\.when"),
        ({"meta": [1, {2}]}, r"row\.meta\[1\]"),
        ({"$image": 0}, r"\$image"),
        ({3: "x"}, "3"),
        ({"p": Image.new("CMYK", (2, 2))}, "CMYK"),
    ],
)
def test_what_cannot_be_stored_is_named(value, where):
    with pytest.raises(DataError, match=where) as error:
        TrainerRows([value], None, None, "one").record(0)
    assert "task 'one', sample 0" in str(error.value)
