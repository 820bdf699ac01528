"""Recipes that cannot be carried out are refused before a model loads, with every problem and with nothing written."""

from __future__ import annotations

import json

import pytest
import tiny
from running import changed, copy_of, go, recipe

from cl_plugins.base.errors import ClPluginsError, CompatibilityError, RecipeError, RunStateError


@pytest.fixture
def refused(monkeypatch):
    """The error of a recipe, and the proof that nothing was loaded and nothing written."""
    import llamafactory.model
    import llamafactory.train.tuner  # first, or it would take the patched names and keep them

    def loaded(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(llamafactory.model, "load_model", loaded)
    monkeypatch.setattr(llamafactory.model, "load_tokenizer", loaded)

    def ask(keys, kind=RecipeError):
        from pathlib import Path

        out = Path(str(keys.get("output_dir", "nowhere")))
        before = sorted(out.rglob("*")) if out.is_dir() else None
        with pytest.raises(ClPluginsError) as caught:
            go(keys)
        assert type(caught.value) is kind, caught.value
        assert (sorted(out.rglob("*")) if out.is_dir() else None) == before
        assert all(p.where and p.what and p.fix for p in caught.value.problems)
        return {p.where: p for p in caught.value.problems} if caught.value.problems else str(caught.value)

    return ask


@pytest.fixture
def keys(llama, text_data, tmp_path):
    return recipe(llama, text_data, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "one_train"),
        ("eval_dataset", "one_test"),
        ("val_size", 0.1),
        ("do_eval", True),
        ("do_predict", True),
        ("eval_strategy", "steps"),
        ("predict_with_generate", True),
        ("tokenized_path", "x"),
        ("streaming", True),
        ("load_best_model_at_end", True),
        ("early_stopping_steps", 3),
        ("adapter_name_or_path", "x"),
        ("create_new_adapter", True),
        ("resume_from_checkpoint", "x"),
        ("export_dir", "x"),
        ("push_to_hub", True),
        ("use_dora", True),
        ("pissa_init", True),
        ("use_llama_pro", True),
        ("use_galore", True),
        ("use_badam", True),
        ("use_apollo", True),
        ("temperature", 0.7),
        ("fsdp", "full_shard"),
        ("stage", "dpo"),
        ("finetuning_type", "freeze"),
        ("finetuning_type", "full"),
        ("template", "lama3"),
        ("output_dir", None),
        ("model_name_or_path", "/nowhere/at/all"),
        ("model_name_or_path", "./nowhere"),
        ("lerning_rate", 1e-4),
    ],
)
def test_host_keys_that_do_not_go_together_with_cl(refused, keys, key, value):
    assert key in refused({**keys, key: value})


def test_host_keys_of_the_wrong_kind_of_method(refused, llava, data, tmp_path):
    keys = tiny.recipe(llava, data, tmp_path / "run", "seqfull")
    assert "finetuning_type" in refused({**keys, "finetuning_type": "lora"})
    lora = tiny.recipe(llava, data, tmp_path / "run", "inclora", freeze_multi_modal_projector=False)
    del lora["additional_target"]
    problem = refused(lora)["freeze_multi_modal_projector: false"]
    assert "additional_target" in problem.fix


def test_everything_that_is_wrong_is_said_at_once(refused, keys):
    block = {**keys["cl"], "evl": 1, "task_overrides": {"two": {"template": "x", "max_stepz": 1}}}
    found = refused({**keys, "val_size": 0.1, "do_predict": True, "lora_rnk": 4, "cl": block})
    assert {"val_size", "do_predict", "lora_rnk", "cl.evl", "cl.task_overrides.two.template"} <= set(found)
    assert "max_steps" in found["cl.task_overrides.two.max_stepz"].fix
    assert "lora_rank" in found["lora_rnk"].fix


def test_problems_of_engine_and_data_come_together(refused, keys):
    stream = {"name": "s", "tasks": [{"name": "one", "train": "one_trian", "test": "nothing"}]}
    found = refused({**keys, "fsdp": "full_shard", "template": "nope", "cl": {**keys["cl"], "stream": stream}})
    assert {"fsdp", "template"} <= set(found)
    assert len(found) == 3  # both names are missing in one and the same dataset_info.json


def test_a_block_without_content(refused, keys):
    for cl in (None, [], "inclora"):
        assert "cl" in refused({**keys, "cl": cl})


def test_no_dataset_info(refused, keys, tmp_path):
    assert "dataset_info.json" in refused({**keys, "dataset_dir": str(tmp_path)})["dataset_dir"].what


def test_a_data_set_name_that_does_not_exist(refused, keys):
    stream = {"name": "s", "tasks": [{"name": "one", "train": "one_trian", "test": "one_test"}]}
    (problem,) = refused({**keys, "cl": {**keys["cl"], "stream": stream}}).values()
    assert "'one_trian'" in problem.what
    assert "Did you mean 'one_train'" in problem.fix


def test_a_peer_scorer_that_does_not_exist(refused, keys):
    keys["cl"]["stream"]["tasks"][1]["scorer"] = "peer:nobody"
    assert "nobody" in refused(keys)["cl.stream.tasks[1].scorer"].what


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("dataset_info.json", "{", "not valid JSON"),
        ("dataset_info.json", "[]", "does not contain an object"),
        ("two_train.json", None, "does not exist"),
        ("two_train.json", '[{"messages": ', "not JSON"),
        ("two_test.json", '[{"messages": ', "not JSON"),
        ("two_train.json", '{"messages": []}\n{"messages"\n', "line 2"),
        ("two_test.json", b"\xff\xfe\x00", "not JSON"),
        ("two_train.json", "[]", "contains no record"),
        ("two_test.json", "", "contains no record"),
    ],
)
def test_data_files_that_are_broken(refused, keys, text_data, tmp_path, name, content, said):
    """Also those of the last task: hours of training lie before it."""
    folder = copy_of(text_data, tmp_path / "data")
    with changed(folder / name, content):
        (problem,) = refused({**keys, "dataset_dir": str(folder)}).values()
    assert said in problem.what
    assert name in f"{problem.where} {problem.what}"


def test_missing_pictures_are_counted_and_named_before_anything_loads(refused, llava, data, tmp_path):
    folder = copy_of(data, tmp_path / "data")
    for i in range(5):
        (folder / "images" / f"three_train_{i}.png").unlink()
    (folder / "images" / "two_test_0.png").unlink()
    keys = tiny.recipe(llava, folder, tmp_path / "run")
    found = refused(keys)
    assert set(found) == {"data set 'two_test'", "data set 'three_train'"}
    problem = found["data set 'three_train'"]
    assert "5 of the 24" in problem.what
    assert "images/three_train_0.png" in problem.what
    assert "media_dir" in problem.fix
    # a task that is not trained here needs no training pictures
    assert "data set 'three_train'" not in refused({**keys, "cl": {**keys["cl"], "only": "one"}})
    assert "data set 'two_test'" in refused({**keys, "media_dir": str(tmp_path)})


def test_media_dir_is_where_names_start_from(llava, data, tmp_path):
    from cl_plugins.host.media import DataUse, fingerprint, inspect

    folder = copy_of(data, tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (folder / "images").rename(tmp_path / "elsewhere" / "images")
    assert inspect(DataUse("one_train", str(folder)))
    use = DataUse("one_train", str(folder), str(tmp_path / "elsewhere"))
    assert not inspect(use)
    found = fingerprint(use)
    assert found["media"]["count"] == 24
    again = fingerprint(DataUse("one_train", str(data)))
    assert found == again  # hashes know nothing of folders
    picture = tmp_path / "elsewhere" / "images" / "one_train_3.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    assert fingerprint(use)["media"] != again["media"]


def test_json_lines_are_never_held_whole(tmp_path):
    import tracemalloc

    from cl_plugins.host.media import DataUse, fingerprint, inspect

    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"v": {"file_name": "v.jsonl", "columns": {"images": "p"}}})
    )
    (tmp_path / "f.png").write_bytes(b"1")
    row = json.dumps({"p": ["f.png"], "text": "x" * 100_000}) + "\n"
    (tmp_path / "v.jsonl").write_text(row * 80)
    tracemalloc.start()
    try:
        problems = inspect(DataUse("v", str(tmp_path)))
        found = fingerprint(DataUse("v", str(tmp_path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not problems
    assert found["media"]["count"] == 1
    assert peak < 2 * 2**20, f"{peak} bytes for a file of {80 * len(row)}"


@pytest.mark.parametrize("form", ["array", "indented", "lines", "one", "indented one", "mark"])
def test_records_of_every_form_of_json(tmp_path, form):
    from cl_plugins.host.media import DataUse, fingerprint

    rows = [{"p": "a.png"}, {"p": "b.png"}] if "one" not in form else [{"p": "a.png"}]
    text = {
        "array": json.dumps(rows),
        "indented": json.dumps(rows, indent=1),
        "lines": "\n\n" + "\n".join(map(json.dumps, rows)),
        "one": json.dumps(rows[0]),
        "indented one": json.dumps(rows[0], indent=1),
        "mark": "\ufeff" + "\n".join(map(json.dumps, rows)),
    }[form]
    (tmp_path / "dataset_info.json").write_text(json.dumps({"v": {"file_name": "v.json", "columns": {"images": "p"}}}))
    (tmp_path / "v.json").write_text(text, encoding="utf-8")
    assert fingerprint(DataUse("v", str(tmp_path)))["media"]["count"] == len(rows)


def test_lists_of_frames_json_lines_and_addresses(tmp_path):
    from cl_plugins.host.media import DataUse, inspect

    info = {"v": {"file_name": "v.jsonl", "columns": {"videos": "clip", "images": "picture"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "f1.png").write_bytes(b"1")
    rows = [{"clip": [["f1.png", "f2.png"]], "picture": "https://x.org/p.png"}, {"clip": None, "picture": "f3.png"}]
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    problems = inspect(DataUse("v", str(tmp_path)))
    assert "2 of the 3" in problems[0].what
    problems = inspect(DataUse("v", str(tmp_path), limit=1))
    assert "1 of the 2" in problems[0].what


def test_output_directories_that_cannot_be_written_to(refused, keys, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "output_dir" in next(iter(refused({**keys, "output_dir": str(tmp_path / "file" / "run")}, RunStateError)))
    assert "output_dir" in refused({**keys, "output_dir": str(tmp_path / "file")})
    assert (tmp_path / "file").read_text() == "x"


def test_an_option_that_the_base_cannot_carry(keys, llava, data, tmp_path):
    """Merging into a half-precision base is refused when the base is seen."""
    half = tiny.build_llava(tmp_path / "half", dtype="bfloat16")
    method = {"name": "inclora", "consolidate": "merge"}
    made = tiny.recipe(half, data, tmp_path / "out", method, ("one",), max_steps=1, bf16=True)
    made["cl"]["eval"] = {"scope": "none"}
    with pytest.raises(CompatibilityError, match="rounded away"):
        go(made)
