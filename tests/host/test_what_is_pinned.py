"""What decides a number stands in the record of a run: another start with anything else is refused."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import tiny
from running import changed, copy_of, go, recipe

from cl_plugins.base import hashes
from cl_plugins.base.errors import RunStateError
from cl_plugins.contract.host import same_base
from cl_plugins.host import fingerprint as prints
from cl_plugins.host.hub import content_digest
from cl_plugins.host.media import DataUse, fingerprint, inspect


def entry_of(folder, **entry):
    folder.mkdir(exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps({"t": entry}))
    return DataUse("t", str(folder), test=True)


# --- hashes that are remembered ---------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """How often a file was read."""
    read = []
    monkeypatch.setenv("CL_PLUGINS_CACHE", str(tmp_path / "cache"))
    original = hashes.sha256
    monkeypatch.setattr(hashes, "sha256", lambda path: read.append(str(path)) or original(path))
    return read


def test_a_file_is_read_once_until_it_changes(counted, tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 10_000)
    first = hashes.cached_sha256(file)
    assert hashes.cached_sha256(file) == first
    assert len(counted) == 1
    stat = os.stat(file)
    file.write_bytes(b"b" * 10_000)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size and time
    assert hashes.cached_sha256(file) != first
    assert len(counted) == 2


def test_without_a_cache_directory_files_are_read_each_time(counted, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("x")
    monkeypatch.setenv("CL_PLUGINS_CACHE", str(tmp_path / "taken"))
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 10_000)
    assert hashes.cached_sha256(file) == hashes.cached_sha256(file)
    assert len(counted) == 2


def test_a_damaged_cache_is_no_obstacle(counted, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "hashes.sqlite").write_bytes(b"not a database" * 500)
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 10_000)
    assert len(hashes.cached_sha256(file)) == 64


# --- the base ---------------------------------------------------------------------------------------------------


def base_of(folder, tmp_path, data):
    from cl_plugins.host.task_args import parse

    keys = tiny.recipe(folder, data, tmp_path / "out", tasks=("one",))
    keys.pop("cl")
    return prints.base_fingerprint(parse({**keys, "dataset": "one_train"}).model)


@pytest.mark.parametrize("large", [False, True])
def test_noise_in_the_weights_is_another_base(llava, data, tmp_path, monkeypatch, large):
    if large:
        monkeypatch.setattr(prints, "READ_WHOLE", 10)
    folder = copy_of(llava, tmp_path / "base")
    before = base_of(folder, tmp_path, data)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 64  # header and size are as before
    file.write_bytes(content)
    assert not same_base(before, base_of(folder, tmp_path, data))


def test_another_mean_of_the_pictures_is_another_base(llava, data, tmp_path):
    folder = copy_of(llava, tmp_path / "base")
    before = base_of(folder, tmp_path, data)
    assert same_base(before, base_of(llava, tmp_path, data))
    file = next(path for path in folder.glob("*processor*.json") if "image_mean" in _text(path))
    settings = json.loads(file.read_text())
    (settings.get("image_processor") or settings)["image_mean"] = [0.1, 0.1, 0.1]
    file.write_text(json.dumps(settings))
    assert not same_base(before, base_of(folder, tmp_path, data))


def test_noise_in_weights_that_are_no_safetensors_is_another_base(llama, data, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = copy_of(llama, tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    before = base_of(folder, tmp_path, data)
    next(iter(tensors.values())).add_(0.1)
    torch.save(tensors, folder / "pytorch_model.bin")
    assert not same_base(before, base_of(folder, tmp_path, data))


def test_an_index_beside_the_one_file_that_is_loaded_hides_nothing(llama, data, tmp_path):
    folder = copy_of(llama, tmp_path / "base")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    before = base_of(folder, tmp_path, data)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 64
    (folder / "model.safetensors").write_bytes(content)
    assert not same_base(before, base_of(folder, tmp_path, data))


def set_json(path, **values):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


CHANGED_SETTINGS = [
    ("tokenizer_config.json", {"eos_token": "."}, {}, "eos_token"),
    ("tokenizer_config.json", {"eos_token": {"content": "."}}, {}, "eos_token"),
    ("tokenizer_config.json", {"bos_token": "."}, {}, "bos_token"),
    ("tokenizer_config.json", {"extra_special_tokens": ["red"]}, {}, "red"),
    ("generation_config.json", {"repetition_penalty": 1.5}, {}, "repetition_penalty"),
    ("generation_config.json", {"suppress_tokens": [9]}, {}, "suppress_tokens"),
    ("tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"}, {"template": None}, "chat_template"),
]


@pytest.mark.parametrize(("name", "values", "keys", "said"), CHANGED_SETTINGS)
def test_settings_of_the_base_that_decide_answers_are_pinned(llama, text_data, tmp_path, name, values, keys, said):
    base = copy_of(llama, tmp_path / "base")
    cl = {"eval": {"zero_shot": True}, "stop_after": 1}
    made = recipe(base, text_data, tmp_path / "run", "seqlora", cl=cl, **keys)
    made = {key: value for key, value in made.items() if value is not None}
    go(made)
    set_json(base / name, **values)
    with pytest.raises(RunStateError, match=said):
        go(made)


def test_how_the_files_of_settings_are_written_does_not_count(llama, data, tmp_path):
    """Greedy search ignores `temperature`, a template of the recipe the base's own, and tokens may be mappings."""
    folder = copy_of(llama, tmp_path / "base")
    before = base_of(folder, tmp_path, data)
    set_json(
        folder / "generation_config.json", temperature=0.1, top_p=0.5, eos_token_id=[2, 9], repetition_penalty=1.0
    )
    given = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    set_json(folder / "tokenizer_config.json", eos_token={"content": given["eos_token"], "lstrip": False})
    set_json(folder / "special_tokens_map.json", eos_token=given["eos_token"])
    assert base_of(folder, tmp_path, data) == {**before, "name": str(folder)}


def test_code_of_a_base_counts_where_it_is_run(llama, data, tmp_path):
    from types import SimpleNamespace

    folder = copy_of(llama, tmp_path / "base")
    (folder / "modeling_x.py").write_text("X = 1\n")

    def code(trusted):
        place = {"model_name_or_path": str(folder), "cache_dir": None, "model_revision": "main"}
        return prints.base_fingerprint(SimpleNamespace(**place, trust_remote_code=trusted))["settings"].get("code")

    before = code(True)
    (folder / "modeling_x.py").write_text("X = 2\n")
    assert before != code(True)
    assert code(False) is None


def _text(path):
    return path.read_text() if path.is_file() else ""


# --- data -------------------------------------------------------------------------------------------------------


def test_num_samples_of_a_test_set_is_refused_before_anything_loads(tmp_path):
    use = entry_of(tmp_path / "data", file_name="t.json", num_samples=6)
    (tmp_path / "data" / "t.json").write_text('[{"instruction": "?", "output": "A"}]')
    (problem,) = inspect(use)
    assert "draw different items at every start" in problem.what
    assert "cl.eval.max_items" in problem.fix
    train = DataUse("t", use.dataset_dir)
    assert not inspect(train)
    assert fingerprint(train)["entry"] == {"num_samples": 6}


def test_a_changed_column_of_the_same_file_is_refused(llama, text_data, tmp_path):
    folder = copy_of(text_data, tmp_path / "data")
    keys = recipe(llama, folder, tmp_path / "run", "seqlora", cl={"eval": {"zero_shot": True}, "stop_after": 1})
    go(keys)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["one_train"]["num_samples"] = 3
    with changed(folder / "dataset_info.json", json.dumps(info)), pytest.raises(RunStateError, match="num_samples"):
        go(keys)


def test_a_picture_of_the_same_size_is_another_data_set(tmp_path):
    use = entry_of(tmp_path / "data", file_name="t.jsonl", columns={"images": "image"})
    (tmp_path / "data" / "t.jsonl").write_text('{"image": "a.png"}\n')
    (tmp_path / "data" / "a.png").write_bytes(b"1234")
    before = fingerprint(use)
    (tmp_path / "data" / "a.png").write_bytes(b"1235")
    assert fingerprint(use)["media"] != before["media"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "json"])
@pytest.mark.parametrize("form", ["name", "list", "mapping"])
def test_pictures_that_a_table_names_are_pinned_and_looked_for(tmp_path, kind, form):
    from datasets import Dataset

    if (kind != "json" and form == "mapping") or (kind == "csv" and form == "list"):
        pytest.skip("no such cell")
    value = {"name": "a.png", "list": ["a.png"], "mapping": {"path": "a.png", "bytes": None}}[form]
    use = entry_of(tmp_path / "data", file_name=f"t.{kind}", columns={"images": "image"})
    rows = Dataset.from_list([{"image": value, "text": "NA"}] * 3)
    file = tmp_path / "data" / f"t.{kind}"
    if kind == "arrow":
        rows.save_to_disk(tmp_path / "saved")
        next((tmp_path / "saved").glob("*.arrow")).rename(file)
    else:
        getattr(rows, f"to_{kind}")(str(file))
    (problem,) = inspect(use)
    assert "1 of the 1 media files it names do not exist (e.g. a.png)" in problem.what
    (tmp_path / "data" / "a.png").write_bytes(b"1234")
    assert not inspect(use)
    before = fingerprint(use)["media"]
    assert before["count"] == 1
    (tmp_path / "data" / "a.png").write_bytes(b"1235")
    assert fingerprint(use)["media"] != before


@pytest.mark.parametrize("key", ["hf_hub_url", "ms_hub_url", "cloud_file_name"])
def test_data_on_a_hub_are_not_looked_for_on_the_disk(tmp_path, key):
    assert not inspect(entry_of(tmp_path / "data", **{key: "someone/data"}))


def test_rows_of_a_hub_are_pinned_by_their_content(llama, text_data, tmp_path, monkeypatch):
    """A local data set script stands in for a hub: the host loads both by the same call."""

    folder = copy_of(text_data, tmp_path / "data")
    info = json.loads((folder / "dataset_info.json").read_text())
    file = info["one_test"].pop("file_name")
    info["one_test"]["hf_hub_url"] = "someone/data"
    (folder / "dataset_info.json").write_text(json.dumps(info))

    from llamafactory.data import loader

    original = loader.load_dataset
    local = {"path": "json", "data_files": [str(folder / file)]}
    monkeypatch.setattr(
        loader,
        "load_dataset",
        lambda **k: original(**{**k, **local}) if k["path"] == "someone/data" else original(**k),
    )
    keys = recipe(llama, folder, tmp_path / "run", "seqlora", cl={"stop_after": 1})
    go(keys)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(record["data"]["one_test"]["rows"]) == 64
    go(keys)  # the same rows: it goes on
    records = json.loads((folder / file).read_text())
    records[0]["messages"][1]["value"] = "D" if records[0]["messages"][1]["value"] != "D" else "A"
    with changed(folder / file, json.dumps(records)), pytest.raises(RunStateError, match="rows"):
        go(keys)


def test_the_digest_of_rows_does_not_depend_on_how_they_are_stored():
    from datasets import Dataset, concatenate_datasets

    rows = [{"a": i, "b": {"bytes": bytes([i])}, "c": [str(i)]} for i in range(7)]
    whole = Dataset.from_list(rows)
    parts = concatenate_datasets([Dataset.from_list(rows[:3]), Dataset.from_list(rows[3:])])
    assert content_digest(whole) == content_digest(parts) == content_digest(whole.select(range(7)))
    assert content_digest(whole) != content_digest(Dataset.from_list(rows[::-1]))


# --- forms that the host does not read --------------------------------------------------------------------------


def test_a_mark_in_front_of_a_list_is_named(tmp_path):
    use = entry_of(tmp_path / "data", file_name="t.json")
    (tmp_path / "data" / "t.json").write_bytes(b'\xef\xbb\xbf[{"a": 1}]')
    (problem,) = inspect(use)
    assert "BOM" in problem.what
    (tmp_path / "data" / "t.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n')
    assert not inspect(use)
    info = (tmp_path / "data" / "dataset_info.json").read_bytes()
    (tmp_path / "data" / "dataset_info.json").write_bytes(b"\xef\xbb\xbf" + info)
    assert "BOM" in inspect(use)[0].what


def test_a_folder_with_folders_is_named(tmp_path):
    use = entry_of(tmp_path / "data", file_name="deep")
    (tmp_path / "data" / "deep" / "x").mkdir(parents=True)
    assert "contains folders (x), which LLaMA-Factory does not read" in inspect(use)[0].what


def test_sounds_without_their_package_are_refused(tmp_path, monkeypatch):
    from cl_plugins.host import media

    use = entry_of(tmp_path / "data", file_name="t.jsonl", columns={"audios": "sound"})
    (tmp_path / "data" / "t.jsonl").write_text('{"sound": "a.wav"}\n')
    (tmp_path / "data" / "a.wav").write_bytes(b"1")
    monkeypatch.setattr(media, "version", lambda name: "2.11.0")
    monkeypatch.setattr(media, "find_spec", lambda name: None)
    (problem,) = inspect(use)
    assert "torchcodec" in problem.what
    monkeypatch.setattr(media, "version", lambda name: "2.8.0")
    assert not inspect(use)


@pytest.mark.parametrize("imports", [False, True])
def test_sounds_without_ffmpeg_are_refused(imports, tmp_path, monkeypatch):
    """TorchCodec 0.17 imports without FFmpeg and fails at the first file; older ones fail when they are imported."""
    from cl_plugins.host import media

    def failing(*_):
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n  1. FFmpeg is not properly installed")

    found = SimpleNamespace(AudioDecoder=failing)
    use = entry_of(tmp_path / "data", file_name="t.jsonl", columns={"audios": "sound"})
    (tmp_path / "data" / "t.jsonl").write_text('{"sound": "a.wav"}\n')
    (tmp_path / "data" / "a.wav").write_bytes(b"1")
    monkeypatch.setattr(media, "version", lambda name: "2.11.0")
    monkeypatch.setattr(media, "find_spec", lambda name: object())
    importing = (lambda name: found) if imports else failing
    monkeypatch.setattr(media, "importlib", SimpleNamespace(import_module=importing))
    media._torchcodec_fault.cache_clear()
    (problem,) = inspect(use)
    media._torchcodec_fault.cache_clear()
    assert "cannot read a sound here (Could not load libtorchcodec)" in problem.what
    assert "FFmpeg" in problem.fix
