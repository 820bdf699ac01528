"""Test items stay small in memory, wherever their pictures are kept."""

from __future__ import annotations

import gc
import io
import json

import numpy as np
import pytest
import tiny

from cl_plugins.contract.test_item import Features, StoredMedia
from cl_plugins.generation.generate import generate, length_sorted_batches
from cl_plugins.host.test_sets import load_test_items, media_token_ids, pictures
from cl_plugins.streams import Task


COUNT = 12
TASK = Task(name="one", test=("one_test",), scorer="choice_accuracy", options_column="options")


@pytest.fixture(scope="module")
def as_paths(tmp_path_factory):
    return tiny.build_data(tmp_path_factory.mktemp("paths"), tasks=("one",), train=4, test=COUNT)


@pytest.fixture(scope="module")
def as_bytes(as_paths, tmp_path_factory):
    """The same test set with its pictures inside a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("bytes")
    records = json.loads((as_paths / "one_test.json").read_text())
    for record in records:
        names = record["images"]
        record["images"] = [{"bytes": (as_paths / name).read_bytes(), "path": None} for name in names]
    pq.write_table(pa.Table.from_pylist(records), folder / "one_test.parquet")
    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": "one_test.parquet", "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"one_test": entry}))
    return folder


@pytest.fixture(scope="module")
def session_of(llava, tmp_path_factory):
    from cl_plugins.host.session import Session
    from cl_plugins.host.task_args import parse

    def make(data):
        keys = tiny.recipe(llava, data, tmp_path_factory.mktemp("out"), tasks=("one",))
        keys.pop("cl")
        return Session(parse({**keys, "dataset": "one_test"}))

    return make


def load(session, **more):
    return load_test_items(TASK, session.args, session.template, session.tokenizer_module, None, **more)


def open_pictures():
    from PIL import Image

    gc.collect()
    return sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects())


@pytest.mark.parametrize("kept", ["paths", "bytes"])
def test_pictures_are_in_memory_for_their_batch_and_the_next_one(kept, as_paths, as_bytes, session_of, monkeypatch):
    session = session_of({"paths": as_paths, "bytes": as_bytes}[kept])
    before = open_pictures()
    items = load(session)
    assert len(items) == COUNT
    assert open_pictures() == before
    assert all(item.tokens.dtype == np.int32 and item.tokens.nbytes == 4 * len(item.tokens) for item in items)
    if kept == "bytes":
        assert all(isinstance(item.media, StoredMedia) for item in items)
    else:
        assert all(isinstance(item.media["images"][0], str) for item in items)

    asked = []
    features = type(
        "Counted", (Features,), {"__getitem__": lambda self, i: asked.append(i) or Features.__getitem__(self, i)}
    )
    batches = length_sorted_batches([len(item.tokens) for item in items], 4)
    seen = []
    generate(
        session.base.model, session.tokenizer, session.collator(session.base.model, training=False), features(items),
        [item.tokens for item in items], batches=batches, max_new_tokens=2, eos_token_ids=session.eos_token_ids(),
        media_token_ids=media_token_ids(session.template, session.tokenizer),
        on_batch=lambda position, texts: seen.append(len(asked)),
    )  # fmt: skip
    assert all(4 * answered <= count <= 4 * (answered + 1) for answered, count in enumerate(seen, start=1))
    assert len(asked) == len(items) == 12
    assert open_pictures() == before


def test_both_ways_of_keeping_pictures_give_the_same_batches(as_paths, as_bytes, session_of):
    import torch

    a, b = session_of(as_paths), session_of(as_bytes)
    for one, other in zip(load(a), load(b), strict=True):
        assert (one.id, one.prompt, one.reference, one.options, one.kinds) == (other.id, other.prompt, other.reference, other.options, other.kinds)  # fmt: skip
        assert one.tokens.tolist() == other.tokens.tolist()
        x = a.collator(a.base.model, training=False)([one.feature])
        y = b.collator(b.base.model, training=False)([other.feature])
        assert torch.equal(x["pixel_values"], y["pixel_values"])
        assert torch.equal(x["input_ids"], y["input_ids"])


def test_a_feature_is_made_anew_each_time(as_paths, session_of):
    item = load(session_of(as_paths))[0]
    item.feature.pop("images")  # as the host's collator does
    item.feature["input_ids"].clear()
    assert item.feature["images"]
    assert len(item.feature["input_ids"]) == len(item.feature["attention_mask"]) == len(item.tokens)
    rest = Features([item, item, item])[1:]
    assert len(rest) == 2
    assert rest[0] == item.feature


def test_prompts_for_an_engine_hold_one_token_per_picture(as_paths, session_of):
    session = session_of(as_paths)
    image = media_token_ids(session.template, session.tokenizer)[0]
    plain, both = load(session), load(session, for_engine=True)
    assert all(item.engine_tokens is None for item in plain)
    for item, short in zip(plain, both, strict=True):
        assert short.tokens.tolist() == item.tokens.tolist()
        assert short.engine_tokens.tolist().count(image) == 1
        assert [i for i in short.engine_tokens if i != image] == [i for i in item.tokens if i != image]
    assert session.template.mm_plugin.expand_mm_tokens
    found = pictures(both[0], session.template, session.tokenizer_module["processor"])
    assert [picture.mode for picture in found] == ["RGB"]


def test_pictures_in_a_data_set_are_opened_for_an_engine(as_bytes, as_paths, session_of):
    from PIL import Image

    session = session_of(as_bytes)
    item = load(session, for_engine=True)[3]
    stored = item.feature["images"][0]["bytes"]
    found = pictures(item, session.template, session.tokenizer_module["processor"])
    wanted = Image.open(io.BytesIO(stored)).convert("RGB").resize((32, 32))  # the host's smallest size
    assert np.array_equal(np.asarray(found[0]), np.asarray(wanted))
