"""Kept samples that come from another site are trained on as in their own task, whatever the recipe of this site says."""

from __future__ import annotations

import json

import pytest
import tiny
from running import go, recipe

from cl_plugins.replay.encoding import encoding_of, next_encoding, stored_encoding
from cl_plugins.replay.store import Buffer
from cl_plugins.run.packing import pack


REPLAY = {"replay": {"capacity_per_task": 4}}
OWN = {"train_on_prompt": True, "cutoff_len": 300}


def site(base, data, out, only, carry=None, overrides=None, **more):
    block = {"only": only, "stream": tiny.stream(("one", "two")), "eval": {"scope": "none"}, **REPLAY}
    if carry is not None:
        block["carry_from"] = str(carry)
    if overrides:
        block["task_overrides"] = {"one": overrides}
    return recipe(base, data, out, "inclora", ("one", "two"), cl=block, **{"max_steps": 2, **more})


@pytest.fixture(scope="module")
def first(llama, text_data, tmp_path_factory):
    """A site that has trained `one` on its prompts as well, and passes samples on."""
    out = tmp_path_factory.mktemp("first") / "run"
    go(site(llama, text_data, out, "one", overrides=OWN))
    pack(out, out.parent / "first.zip", with_replay=True)
    return out


def update(out):
    return (out / "tasks" / "02_two" / "update.safetensors").read_bytes()


@pytest.mark.parametrize("carry", ["run", "first.zip"])
def test_the_next_site_need_not_repeat_how_samples_were_encoded(first, llama, text_data, tmp_path, carry):
    source = first.parent / carry
    go(site(llama, text_data, tmp_path / "silent", "two", source))
    go(site(llama, text_data, tmp_path / "repeated", "two", source, overrides=OWN))
    assert update(tmp_path / "silent") == update(tmp_path / "repeated")


def test_a_buffer_without_the_keys_is_encoded_as_the_recipe_says(first, llama, text_data, tmp_path, monkeypatch):
    """As in earlier versions; the keys change what is trained on."""
    go(site(llama, text_data, tmp_path / "known", "two", first))
    monkeypatch.setattr("cl_plugins.run.replaying.stored_encoding", lambda buffer, names: {})
    go(site(llama, text_data, tmp_path / "unknown", "two", first))
    go(site(llama, text_data, tmp_path / "repeated", "two", first, overrides=OWN))
    assert update(tmp_path / "unknown") != update(tmp_path / "known")
    assert update(tmp_path / "repeated") == update(tmp_path / "known")


def test_a_recipe_that_asks_for_others_is_told(first, llama, text_data, tmp_path, heard):
    go(site(llama, text_data, tmp_path / "other", "two", first, overrides={**OWN, "cutoff_len": 200}))
    go(site(llama, text_data, tmp_path / "silent", "two", first))
    assert update(tmp_path / "other") == update(tmp_path / "silent")
    told = [record.getMessage() for record in heard.records if "kept samples" in record.getMessage()]
    assert told == [
        "the recipe gives task 'one' cutoff_len: 200; its kept samples are encoded as in its training "
        "(cutoff_len: 300, mask_history: None, train_on_prompt: True)"
    ]


def test_the_keys_of_all_tasks_go_on(first, llama, text_data, tmp_path):
    go(site(llama, text_data, tmp_path / "next", "two", first, cutoff_len=250))
    settings = json.loads((tmp_path / "next" / "carry" / "replay" / "manifest.json").read_text())["settings"]
    assert settings["encoded"] == {
        "one": {"cutoff_len": 300, "mask_history": None, "train_on_prompt": True},
        "two": {"cutoff_len": 250, "mask_history": None, "train_on_prompt": None},
    }


def test_only_numbers_and_truth_values_of_known_keys_are_kept_and_read(tmp_path):
    names = frozenset({"cutoff_len", "dataset_dir", "train_on_prompt"})
    keys = {"cutoff_len": 7, "dataset_dir": "/home/doctor", "train_on_prompt": False, "template": "x"}
    assert encoding_of(keys, names) == {"cutoff_len": 7, "train_on_prompt": False}
    strange = {
        "a": {"cutoff_len": "9", "dataset_dir": "/etc", "template": "y", "train_on_prompt": True},
        "b": [1],
        "c": {},
    }
    buffer = Buffer(tmp_path, (), {"encoded": strange})
    assert stored_encoding(buffer, names) == {"a": {"train_on_prompt": True}, "c": {}}
    for nothing in (None, Buffer(tmp_path, ()), Buffer(tmp_path, (), {"encoded": [1]})):
        assert stored_encoding(nothing, names) == {}
        assert next_encoding(nothing, "t", {"cutoff_len": 7}) == {"t": {"cutoff_len": 7}}
