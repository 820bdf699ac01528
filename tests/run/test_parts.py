"""Answers of an unfinished test set: what counts after a kill, and what does not."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

from cl_plugins.contract.carry import Carry
from cl_plugins.contract.test_item import StoredMedia, TestItem
from cl_plugins.generation.answers import Answer
from cl_plugins.run import parts


SIZES = [2, 2, 1]


def of(*texts):
    return [Answer(text) for text in texts]


@pytest.fixture
def written(tmp_path):
    writer = parts.Writer(tmp_path, 0, "key", SIZES)
    writer.add(0, of("a", "b\nc"))
    writer.add(2, of("\u00e9\ud800"))
    return tmp_path


def test_what_was_added_is_read(written):
    assert parts.read(written, "key", SIZES) == {0: of("a", "b\nc"), 2: of("\u00e9\ud800")}
    parts.Writer(written, 3, "key", SIZES).add(1, of("d", "e"))  # another rank
    assert sorted(parts.read(written, "key", SIZES)) == [0, 1, 2]


def test_which_answers_were_cut_is_kept(tmp_path):
    answers = [Answer("long", cut=True), Answer("short")]
    parts.Writer(tmp_path, 0, "key", SIZES).add(0, answers)
    assert parts.read(tmp_path, "key", SIZES) == {0: answers}


def test_what_the_model_has_chosen_is_kept(tmp_path):
    answers = [Answer("a", route="two"), Answer("b", cut=True, route="one")]
    parts.Writer(tmp_path, 0, "key", SIZES).add(0, answers)
    assert parts.read(tmp_path, "key", SIZES) == {0: answers}


def test_nothing_there(tmp_path):
    assert parts.read(tmp_path / "none", "key", SIZES) == {}


def test_a_line_torn_at_any_byte_is_dropped_and_the_next_one_counts(written):
    file = written / "rank0.jsonl"
    whole = file.read_bytes()
    start = whole.index(b"\n", whole.index(b"\n") + 1) + 1  # the second batch
    for length in range(start, len(whole)):
        file.write_bytes(whole[:length])
        assert parts.read(written, "key", SIZES) == {0: of("a", "b\nc")}, length
        parts.Writer(written, 0, "key", SIZES).add(1, of("x", "y"))
        assert parts.read(written, "key", SIZES) == {0: of("a", "b\nc"), 1: of("x", "y")}, length


def test_a_torn_first_line_begins_anew(written):
    file = written / "rank0.jsonl"
    for length in range(len(file.read_bytes().split(b"\n")[0]) + 1):
        parts.Writer(written, 0, "key", SIZES).add(0, of("a", "b"))
        os.truncate(file, length)
        parts.Writer(written, 0, "key", SIZES).add(1, of("x", "y"))
        assert parts.read(written, "key", SIZES) == {1: of("x", "y")}
        file.unlink()


@pytest.mark.parametrize("line", ["[]", "{}", '{"batch": 7, "texts": ["a"], "cut": []}', '{"batch": 1, "texts": ["a", "b"]}', '{"batch": 1, "texts": ["a", "b"], "cut": ["0"]}', '{"batch": 1, "texts": ["a"], "cut": []}',
                                  '{"batch": 1, "texts": [1, 2], "cut": []}', '{"batch": "1", "texts": ["a", "b"], "cut": []}', "\0\0\0"])  # fmt: skip
def test_lines_that_make_no_sense(written, line):
    with (written / "rank0.jsonl").open("a") as file:
        file.write(line + "\n")
    assert sorted(parts.read(written, "key", SIZES)) == [0, 2]
    parts.Writer(written, 0, "key", SIZES).add(1, of("x", "y"))
    assert sorted(parts.read(written, "key", SIZES)) == [0, 1, 2]


def test_answers_of_something_else_are_deleted(written):
    parts.Writer(written, 1, "other", SIZES).add(1, of("x", "y"))
    assert parts.read(written, "other", SIZES) == {1: of("x", "y")}
    assert [p.name for p in written.iterdir()] == ["rank1.jsonl"]


def test_a_rank_whose_own_file_belongs_to_something_else_begins_anew(written):
    parts.Writer(written, 0, "other", SIZES).add(1, of("x", "y"))
    assert parts.read(written, "other", SIZES) == {1: of("x", "y")}


def item(tmp_path, number=0, **more):
    picture = tmp_path / f"{number}.png"
    if not picture.exists():
        picture.write_bytes(b"x" * 10)
    media = {"images": [str(picture)], "videos": None, "audios": None}
    values = {
        "id": f"i{number}",
        "prompt": "p",
        "reference": "r",
        "options": None,
        "media": media,
        "kinds": ("images",),
    }
    return TestItem(**{**values, "tokens": np.arange(5, dtype=np.int32), **more})


def test_the_fingerprint_sees_every_change(tmp_path):
    items = [item(tmp_path, 0), item(tmp_path, 1)]
    about = {"carry": "a", "max_new_tokens": 4}
    key = parts.fingerprint(about, items)
    assert key == parts.fingerprint(dict(reversed(about.items())), [item(tmp_path, 0), item(tmp_path, 1)])
    others = [
        parts.fingerprint({**about, "max_new_tokens": 5}, items),
        parts.fingerprint({**about, "carry": "b"}, items),
        parts.fingerprint(about, items[::-1]),
        parts.fingerprint(about, items[:1]),
        parts.fingerprint(about, [items[0], item(tmp_path, 1, tokens=np.arange(1, 6, dtype=np.int32))]),
        parts.fingerprint(about, [items[0], item(tmp_path, 1, id="j")]),
        parts.fingerprint(about, [items[0], item(tmp_path, 1, media=StoredMedia(None, 3))]),
        parts.fingerprint(about, items, [tmp_path / "0.png"]),
    ]
    (tmp_path / "1.png").write_bytes(b"x" * 11)  # a picture that was changed
    others.append(parts.fingerprint(about, items))
    assert len({key, *others}) == 1 + len(others)


def test_what_tells_carries_apart(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1")
    carry = Carry(tmp_path, ("one",), "m", {"x": 1}, {}, {"a.safetensors": {"sha256": "s", "bytes": 1}})
    found = [None, carry, dataclasses.replace(carry, tasks=("two",)), dataclasses.replace(carry, meta={})]
    found.append(dataclasses.replace(carry, files={"a.safetensors": {"sha256": "t", "bytes": 1}}))
    keys = [json.dumps(parts.identity_of(c)) for c in found]
    assert len(set(keys)) == len(keys)
