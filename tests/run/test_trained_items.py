"""Test items that stand in a training set are found and told, whichever file they are in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from running import go, recipe

from cl_plugins.cli.validate import check_recipe
from cl_plugins.contract.test_item import StoredMedia, TestItem
from cl_plugins.run.trained_items import trained_items


def item(tokens, **media):
    return TestItem("i", "", "", None, np.array(tokens, dtype=np.int32), media)


def by_hand(samples, items):
    """Each sample and item compared token by token."""
    found = {}
    for number, one in enumerate(items):
        tokens = one.tokens.tolist()
        rows = [row for row, ids in enumerate(samples) if ids[: len(tokens)] == tokens]
        found |= {number: rows[0]} if rows else {}
    return found


ids = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@given(st.lists(ids, min_size=1, max_size=12), st.lists(ids, min_size=1, max_size=12))
def test_prefixes_are_found(samples, prompts):
    items = [item(tokens) for tokens in prompts]
    assert trained_items(Dataset.from_dict({"input_ids": samples}), items) == by_hand(samples, items)


@given(st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=6), st.lists(ids, min_size=1, max_size=12))
def test_packed_samples_are_found(packs, prompts):
    rows = {
        "input_ids": [[token for part in pack for token in part] for pack in packs],
        "position_ids": [[place for part in pack for place in range(len(part))] for pack in packs],
    }
    items = [item(tokens) for tokens in prompts]
    parts = [(row, part) for row, pack in enumerate(packs) for part in pack]
    found = by_hand([part for _, part in parts], items)
    assert trained_items(Dataset.from_dict(rows), items) == {number: parts[at][0] for number, at in found.items()}


def test_more_samples_than_are_looked_at_together():
    samples = [[5, n // 100, n % 100, 9] for n in range(2500)]
    items = [item([5, 24, 99]), item([5, 3, 7]), item([6]), item([5, 24, 99])]
    assert trained_items(Dataset.from_dict({"input_ids": samples}), items) == {0: 2499, 1: 307, 3: 2499}


def test_the_media_have_to_be_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Dataset.from_dict(
        {
            "input_ids": [[1, 2, 3]] * 4,
            "images": [["a.png"], ["b.png", "c.png"], None, [str(tmp_path / "d.png")]],
            "videos": [None, ["v.mp4"], None, None],
        }
    )
    asked = [
        item([1, 2], images=["b.png", "c.png"]),
        item([1, 2], images=["c.png", "b.png"]),
        item([1, 2], images=["a.png"], videos=["v.mp4"]),
        item([1, 2], images=["d.png"]),
        item([1, 2], images=["b.png"], videos=["v.mp4"]),
    ]
    assert trained_items(data, asked) == {0: 1, 3: 3, 4: 1}
    assert trained_items(data.select_columns(["input_ids"]), asked) == {}


def test_pictures_in_tables_are_not_compared():
    data = Dataset.from_dict({"input_ids": [[1, 2, 3]], "images": [[{"path": None, "bytes": b"x"}]]})
    one = item([1, 2], images=["a.png"])
    stored = TestItem("i", "", "", None, np.array([1, 2], dtype=np.int32), StoredMedia(data, 0))
    assert trained_items(data, [one, stored]) == {}


def test_a_prompt_of_any_length():
    long = list(range(70_000))
    data = Dataset.from_dict({"input_ids": [long, long[:10]]})
    assert trained_items(data, [item(long), item(long[:65_536]), item(long[:4])]) == {1: 0, 2: 0}


@pytest.fixture
def stream(llama, tmp_path):
    """A recipe of two tasks; the second one's training set has two items of the first one's test set."""
    folder = tmp_path / "data"
    folder.mkdir()
    asked = [{"instruction": f"question {n}?", "input": "", "output": "yes"} for n in range(12)]
    sets = {
        "one": asked[:4],
        "one_test": asked[4:8],
        "two": [*asked[8:10], asked[6], asked[5]],
        "two_test": asked[10:],
    }
    for name, records in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    info = {name: {"file_name": f"{name}.json"} for name in sets}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    tasks = [{"name": name, "train": name, "test": f"{name}_test"} for name in ("one", "two")]

    def keys(**more):
        block = {"stream": {"name": "s", "tasks": tasks}, "stop_after": 1}
        return recipe(llama, folder, tmp_path / "run", "seqlora", cl=block, **more)

    return keys


TOLD = "task 'two': its training set contains 2 of the 4 test items of task 'one' (first: item 'one/1' in sample "


@pytest.mark.parametrize("more", [{}, {"train_on_prompt": True}, {"packing": True, "cutoff_len": 256}])
def test_a_run_tells_them(stream, heard, more):
    go(stream(**more))
    assert heard.text.count("test items of task") == heard.text.count(TOLD) == 1


def test_validate_tells_them(stream, heard):
    assert check_recipe(stream())[0] == []
    assert TOLD in heard.text


def test_the_same_question_about_another_picture_is_another_item(llava, tmp_path, heard):
    data = tiny.build_data(tmp_path / "data", ("one", "two"), train=4, test=4)
    keys = tiny.recipe(llava, data, tmp_path / "run", "seqlora", ("one", "two"))
    assert check_recipe(keys)[0] == []
    assert "test items of task" not in heard.text
    train = json.loads((data / "two_train.json").read_text())
    train[2]["images"] = ["images/one_test_3.png"]
    (data / "two_train.json").write_text(json.dumps(train))
    assert check_recipe(keys)[0] == []
    told = "task 'two': its training set contains 1 of the 4 test items of task 'one' (first: item 'one-test-3' in sample "
    assert told in heard.text
