"""Data sets on hubs and in clouds: loaded by LLaMA-Factory's own calls, with local stand-ins for what is on the net."""

from __future__ import annotations

import json
import shutil

import pytest
from running import go, load, recipe, steps

from cl_plugins.base.errors import DataError, RunStateError


PACKAGES = {
    "modelscope": (
        "1.30.0",
        "class MsDataset:\n    @staticmethod\n    def load(dataset_name, **more):\n        {body}\n",
    ),
    "openmind": (
        "1.1.0",
        "class OmDataset:\n    @staticmethod\n    def load_dataset(path, **more):\n        dataset_name = path\n        {body}\n",
    ),
}
CACHES = {"modelscope": ("utils/config_ds", "MS_DATASETS_CACHE"), "openmind": ("utils/hub", "OM_DATASETS_CACHE")}
BODY = "from datasets import load_dataset\n        return load_dataset('json', data_files={shelf!r} + '/' + dataset_name + '.json', split=more['split'])"


def installed(monkeypatch, site, name, body):
    """A package of a hub, as far as LLaMA-Factory uses it."""
    version, source = PACKAGES[name]
    module, constant = CACHES[name]
    for folder in (site / name / "utils", site / f"{name}-{version}.dist-info"):
        folder.mkdir(parents=True)
    (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (site / name / "__init__.py").write_text(source.format(body=body))
    (site / name / "utils" / "__init__.py").touch()
    (site / name / f"{module}.py").write_text(f"{constant} = None\n")
    monkeypatch.syspath_prepend(site)


@pytest.fixture(params=["hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url"])
def hub(request, monkeypatch, text_data, tmp_path):
    """The key of an entry, and the folder in which the records of its data sets lie."""
    from llamafactory.data import loader

    shelf, data = tmp_path / "shelf", tmp_path / "data"
    data.mkdir()
    shelf.mkdir()
    source = request.param
    original = loader.load_dataset
    info = {}
    for name in ("one_train", "one_test"):
        entry = {"formatting": "sharegpt", "columns": {"messages": "messages"}}
        if source == "script_url":  # a folder below `dataset_dir`; files of code are no longer run by `datasets`
            shelf = data
            (data / name).mkdir()
            shutil.copy(text_data / f"{name}.json", data / name / "train.json")
            info[name] = {source: name, **entry}
            continue
        shutil.copy(text_data / f"{name}.json", shelf)
        info[name] = {source: name if source != "cloud_file_name" else f"s3://bucket/{name}.json", **entry}
    (data / "dataset_info.json").write_text(json.dumps(info))
    if source == "hf_hub_url":

        def load_dataset(path, **more):
            if path in info:
                path, more = "json", {**more, "data_files": str(shelf / f"{path}.json")}
            return original(path=path, **more)

        monkeypatch.setattr(loader, "load_dataset", load_dataset)
    elif source == "cloud_file_name":
        monkeypatch.setattr(
            loader, "read_cloud_json", lambda path: json.loads((shelf / path.rpartition("/")[2]).read_text())
        )
    elif source != "script_url":
        name = {"ms_hub_url": "modelscope", "om_hub_url": "openmind"}[source]
        installed(monkeypatch, tmp_path / "site", name, BODY.format(shelf=str(shelf)))
    return source, data, lambda name: next(p for p in shelf.rglob("*.json") if name in (p.stem, p.parent.name))


def test_a_run_on_data_of_a_hub_equals_one_on_its_files_and_its_rows_are_pinned(hub, llama, text_data, tmp_path):
    source, data, place = hub
    made = recipe(llama, data, tmp_path / "run", "seqlora", tasks=("one",))
    go(made)
    go(recipe(llama, text_data, tmp_path / "plain", "seqlora", tasks=("one",)))
    assert steps(tmp_path / "run") == steps(tmp_path / "plain")
    for name in ("predictions/after_one/one.jsonl", "matrix.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    recorded = load(tmp_path / "run", "run.json")["data"]["one_test"]
    assert recorded["entry"][source].endswith(("one_test", "one_test.json"))
    assert recorded["files"] if source == "script_url" else len(recorded["rows"]) == 64
    go(made)  # the same rows
    file = place("one_test")
    records = json.loads(file.read_text())
    records[0]["messages"][1]["value"] = {"A": "B"}.get(records[0]["messages"][1]["value"], "A")
    file.write_text(json.dumps(records))
    with pytest.raises(RunStateError, match="was made with another recipe"):
        go(made)


def test_pictures_of_this_machine_that_rows_name_are_pinned(llava, data, tmp_path, monkeypatch):
    from llamafactory.data import loader

    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    records = json.loads((folder / "one_test.json").read_text())
    for record in records:
        record["images"] = [str(folder / name) for name in record["images"]]
    info["one_test"]["cloud_file_name"] = "s3://bucket/x.json"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr(loader, "read_cloud_json", lambda path: records)
    cl = {"eval": {"zero_shot": True}, "stop_after": 1}
    made = recipe(llava, folder, tmp_path / "run", "seqlora", cl=cl, template="llava")
    go(made)
    shutil.copy(folder / "images/one_test_1.png", folder / "images/one_test_0.png")
    with pytest.raises(RunStateError, match="rows"):
        go(made)


class Unreachable(Exception):
    """What libraries of hubs raise has no class in common."""


@pytest.mark.parametrize("source", ["hf_hub_url", "ms_hub_url", "cloud_file_name"])
def test_a_hub_that_cannot_be_reached_is_one_clear_error(source, llama, text_data, tmp_path, monkeypatch):
    from llamafactory.data import loader

    def fail(*args, **kwargs):
        raise Unreachable("no route to the hub")

    monkeypatch.setattr(loader, "load_dataset", fail)
    monkeypatch.setattr(loader, "read_cloud_json", fail)
    data = tmp_path / "data"
    shutil.copytree(text_data, data)
    info = json.loads((data / "dataset_info.json").read_text())
    info["one_test"] = {source: "someone/data", "formatting": "sharegpt"}
    (data / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError) as caught:
        go(recipe(llama, data, tmp_path / "run", "seqlora"))
    assert "data set 'one_test'" in str(caught.value)
    assert "modelscope" if source == "ms_hub_url" else "no route to the hub" in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_script_is_refused_by_the_library_and_not_run(llama, text_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(text_data, data)
    (data / "one.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    info = json.loads((data / "dataset_info.json").read_text())
    info["one_test"] = {"script_url": "one.py", "formatting": "sharegpt"}
    (data / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"one_test.*scripts are no longer supported"):
        go(recipe(llama, data, tmp_path / "run", "seqlora"))
    assert not (tmp_path / "ran").exists()
