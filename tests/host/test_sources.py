"""Where records come from: files, folders, hubs, scripts and clouds, as LLaMA-Factory looks for them."""

from __future__ import annotations

import json

import pytest
from running import go, load, recipe, steps

from cl_plugins.base.files import sha256
from cl_plugins.host.data import local_files
from cl_plugins.host.llama_factory import LlamaFactoryHost


HOST = LlamaFactoryHost()


def registry(folder, entries):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return {"dataset_dir": str(folder)}


@pytest.mark.parametrize(
    "entry",
    [
        {"hf_hub_url": "someone/data"},
        {"ms_hub_url": "someone/data"},
        {"om_hub_url": "someone/data"},
        {"cloud_file_name": "s3://bucket/data.json"},
        {"hf_hub_url": "someone/data", "file_name": "not_here.json"},
    ],
)
def test_what_is_not_on_this_machine_is_left_to_the_host(entry, tmp_path, monkeypatch):
    """It is recorded by what its entry says, and by the content of its rows once the host has loaded them."""
    from cl_plugins.host import hub, task_args

    monkeypatch.setattr(task_args, "parse", lambda keys: keys["dataset"])
    monkeypatch.setattr(hub, "hub_digest", lambda use, args: f"rows of {args}")
    keys = registry(tmp_path, {"x": {**entry, "subset": "s", "columns": {"prompt": "p"}}})
    used = HOST.data_set("x", keys)
    assert used.problems() == []
    source = next(key for key in entry if key != "file_name")
    said = {source: entry[source], "subset": "s", "columns": {"prompt": "p"}}
    assert used.record(sha256) == {"entry": said, "files": {}, "rows": "rows of x"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "does not name the location of its records"),
        ({"file_name": 3}, "does not name the location of its records"),
        ([], "does not name the location of its records"),
        ({"file_name": "no.json"}, "does not exist"),
        ({"script_url": "no_script"}, "does not exist"),
    ],
)
def test_an_entry_without_records(entry, said, tmp_path):
    (problem,) = HOST.data_set("x", registry(tmp_path, {"x": entry})).problems()
    assert said in problem.what


def test_a_folder_of_a_hubs_form(llama, text_data, tmp_path):
    """`hf_hub_url` may name a folder: it is hashed, and trained and tested on."""
    hub = tmp_path / "hub" / "letters"
    (hub / "data").mkdir(parents=True)
    for split, name in (("train", "one_train"), ("validation", "one_test")):
        records = json.loads((text_data / f"{name}.json").read_text())
        (hub / "data" / f"{split}-00000.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    entry = {"hf_hub_url": str(hub), "formatting": "sharegpt", "columns": {"messages": "messages"}}
    keys = registry(tmp_path / "data", {"tr": entry, "va": {**entry, "split": "validation"}})
    assert [p.name for p in local_files(keys["dataset_dir"], ["tr"])[0][1:]] == [
        "train-00000.jsonl",
        "validation-00000.jsonl",
    ]
    made = recipe(llama, tmp_path / "data", tmp_path / "run", tasks=("one",), max_steps=1)
    made["cl"]["stream"]["tasks"][0] |= {"train": "tr", "test": "va"}
    go(made)
    assert steps(tmp_path / "run")[-1] == "finish"
    data = load(tmp_path / "run", "run.json")["data"]
    assert set(data["tr"]["files"]) == {"train-00000.jsonl", "validation-00000.jsonl"}
    assert {key: data["va"]["entry"][key] for key in ("hf_hub_url", "split")} == {
        "hf_hub_url": str(hub),
        "split": "validation",
    }
    assert len((tmp_path / "run" / "predictions" / "after_one" / "one.jsonl").read_text().splitlines()) == 6
    changed = hub / "data" / "train-00000.jsonl"
    changed.write_text(changed.read_text() + "\n")
    assert HOST.data_set("tr", keys).record(sha256) != data["tr"]


def test_a_fifo_in_a_folder_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    keys = registry(tmp_path / "data", {"x": {"hf_hub_url": str(tmp_path)}})
    assert any("not a regular file" in p.what for p in HOST.data_set("x", keys).problems())


def test_a_file_is_recorded_by_its_entry_and_its_content(text_data):
    keys = {"dataset_dir": str(text_data)}
    assert HOST.data_set("one_train", keys).record(sha256) == {
        "entry": {"columns": {"messages": "messages"}, "formatting": "sharegpt"},
        "files": {"one_train.json": sha256(text_data / "one_train.json")},
    }


def test_a_folder_is_read_in_the_order_of_names_on_every_machine(llama, tmp_path, monkeypatch):
    """File systems list a folder in orders of their own; LLaMA-Factory takes it as it comes."""
    import os

    from cl_plugins.host.session import Session
    from cl_plugins.host.task_args import parse
    from cl_plugins.streams import Task

    folder = tmp_path / "data" / "parts"
    folder.mkdir(parents=True)
    for name in "bca":
        row = {"instruction": f"question {name}", "input": "", "output": "yes"}
        (folder / f"{name}.json").write_text(json.dumps([row]))
    keys = registry(tmp_path / "data", {"x": {"file_name": "parts"}})
    listdir = os.listdir
    seen = []
    for turned in (False, True):
        monkeypatch.setattr(os, "listdir", lambda path=".", turned=turned: sorted(listdir(path), reverse=turned))
        made = {**recipe(llama, tmp_path / "data", tmp_path / "run"), **keys, "dataset": "x", "overwrite_cache": True}
        made.pop("cl")
        session = Session(parse(made))
        tests = session.test_items(Task(name="t", test=("x",)), made, None)
        module, _ = session.training_set("t", session.args, with_rows=True)
        texts = [session.tokenizer.decode(ids) for ids in module["train_dataset"]["input_ids"]]
        seen.append(([(item.id, item.prompt) for item in tests], texts))
    assert seen[0] == seen[1]
    assert [prompt for _, prompt in seen[0][0]] == ["question a", "question b", "question c"]
