"""Rows of anybody's data set go into the buffer and come out as the collator got them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cl_plugins.base.errors import DataError
from cl_plugins.contract.carry import CarryWriter
from cl_plugins.replay import store
from cl_plugins.replay.rows import STATISTIC, OwnRows, StoredRows, TrainerRows
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


def of(rows, ids=None):
    return TrainerRows(OwnRows(rows, len(rows)), None, ids, "one")


def through_the_disk(folder, rows):
    """What comes back of some rows."""
    given_rows = of(rows)
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
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (5, 4), dtype=np.uint16))
    return Image.fromarray(rng.integers(0, 256, (5, 4, 4), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_come_back_bit_by_bit(tmp_path, mode):
    given_picture = picture(mode)
    (row,) = through_the_disk(tmp_path, [{"turns": [{"pictures": (given_picture,)}]}])
    back = row["turns"][0]["pictures"][0]
    assert (back.mode, back.size) == (given_picture.mode, given_picture.size)
    assert np.array_equal(np.asarray(back), np.asarray(given_picture))


def test_a_photograph_keeps_its_orientation(tmp_path):
    photograph = picture("RGB")
    photograph.getexif()[0x0112] = 6
    (row,) = through_the_disk(tmp_path, [{"images": [photograph]}])
    assert row["images"][0].getexif()[0x0112] == 6


def test_a_photograph_with_broken_notes_is_kept(tmp_path):
    photograph = picture("RGB")
    photograph.getexif()[0x0112] = "no number"
    (row,) = through_the_disk(tmp_path, [{"images": [photograph]}])
    assert np.array_equal(np.asarray(row["images"][0]), np.asarray(photograph))


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


def test_rows_whose_tensors_share_memory_or_run_backwards(tmp_path):
    ids, pixels = torch.arange(6), np.arange(24).reshape(2, 4, 3)
    (row,) = through_the_disk(
        tmp_path, [{"input_ids": ids, "labels": ids, "tail": ids[2:], "bgr": pixels[:, :, ::-1]}]
    )
    assert torch.equal(row["labels"], ids)
    assert torch.equal(row["tail"], ids[2:])
    assert np.array_equal(row["bgr"], pixels[:, :, ::-1])


def test_ids_stand_in_a_column_or_in_the_rows():
    rows = [{"id": torch.tensor(17)}, {"question_id": "q"}, {"x": 1}, ["no mapping"]]
    assert [of(rows).origin(i)[0] for i in range(4)] == ["17", "q", "one/2", "one/3"]
    assert of(rows, ids=[np.int64(3), "b", None, "d"]).origin(0)[0] == "3"


def test_a_data_set_that_draws_anew_is_read_once_when_its_samples_are_chosen():
    class Drawn:
        draws = 0

        def __getitem__(self, index):
            self.draws += 1
            return {"draw": self.draws}

    own = OwnRows(Drawn(), 3)
    assert own[1] != own[1]
    own.freeze([1])
    assert own[1] == own[1]
    assert TrainerRows(own, None, None, "one").record(1)["row"] == own[1]


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
        ({"p": Image.new("I", (2, 2))}, "mode I"),
        ({"a": np.array(["x"])}, r"row\.a: is an array of <U1"),
        ({"a": np.arange(3, dtype=">i4")}, r"row\.a: is an array of >i4"),
        ({"t": np.datetime64("2026-01-01")}, r"row\.t: is a date"),
    ],
)
def test_what_cannot_be_stored_is_named(value, where):
    with pytest.raises(DataError, match=where) as error:
        of([value]).record(0)
    assert "task 'one', sample 0" in str(error.value)
