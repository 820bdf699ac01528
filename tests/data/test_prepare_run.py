"""From raw files to a trained stream: all four data sets of Medical-CL, converted by the command and learned by a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import yaml
from prepare_toys import digests, lines
from raw_medical_cl import miniature

from cl_plugins.cli import main


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    miniature.make_path_mllm_cl(folder / "path", train=24, test=6)
    miniature.make_sur(folder / "sur", videos=(1, 2), seconds=25)
    miniature.make_cell(folder / "cell")
    miniature.make_rad(folder / "rad", train=24, test=6)
    return folder


def words(raw, out, *more):
    videos = ("--set", "sur.videos=1,2", "--set", "cell.channels=Brightfield")
    return ["data", "prepare", "medical_cl", "--raw", str(raw), "--out", str(out), "--workers", "1", *videos, *more]


def test_convert_and_train_a_few_steps_through_our_recipe(tmp_path, raw, capsys):
    """The shipped recipe with a tiny model: same stream, same data set names, same keys."""
    from llamafactory.train.tuner import run_exp

    data = tmp_path / "data"
    assert main(words(raw, data)) == 0
    assert "medical_cl_rad_validation" in capsys.readouterr().out
    shipped = yaml.safe_load((ROOT / "examples" / "yaml" / "medical_cl" / "inclora.yaml").read_text())
    small = tiny.recipe(tiny.build_llava(tmp_path / "model"), data, tmp_path / "run")
    keep = ("template", "finetuning_type", "lora_target", "additional_target", "stage", "do_train", "image_max_pixels")
    recipe = {**small, **{key: shipped[key] for key in keep}, "cutoff_len": 700, "max_steps": 2}
    recipe["cl"] = {**shipped["cl"], "eval": {**shipped["cl"]["eval"], "max_new_tokens": 2, "max_items": 3}}
    stream = yaml.safe_load((ROOT / "src" / "cl_plugins" / "streams" / "builtin" / "medical_cl.yaml").read_text())
    recipe["cl"]["stream"] = {**stream, "tasks": [{**task, "max_new_tokens": 2} for task in stream["tasks"]]}
    run_exp(recipe)
    matrix = json.loads((tmp_path / "run" / "matrix.json").read_text())
    assert matrix["tasks"] == ["path", "sur", "cell", "rad"]
    assert all(score is not None for score in matrix["scores"][-1])
    items = lines(tmp_path / "run" / "predictions" / "after_rad" / "sur.jsonl")
    records = lines(data / "medical_cl_sur_test.jsonl")[:3]
    assert [item["id"] for item in items] == [record["id"] for record in records]
    assert [item["prompt"] for item in items] == [record["conversations"][0]["value"] for record in records]
    assert [item["reference"] for item in items] == [record["conversations"][1]["value"] for record in records]


def test_json_output_and_second_call(tmp_path, raw, capsys):
    assert main(words(raw, tmp_path, "--task", "rad", "--limit", "3", "--pad-square", "--json")) == 0
    made = json.loads(capsys.readouterr().out)
    assert [entry["records"] for entry in made.values()] == [3, 3, 3]
    before = digests(tmp_path)
    assert main(words(raw, tmp_path, "--task", "rad", "--limit", "3", "--pad-square")) == 0
    assert digests(tmp_path) == before


def test_sources(capsys):
    assert main(["data", "sources", "medical_cl"]) == 0
    text = capsys.readouterr().out
    for word in ("PathVQA", "10.5522", "BSCCM", "ROCOv2", "terms", "--set sur.time=auto|paper"):
        assert word in text
    assert main(["data", "sources", "medical_cl", "--task", "rad", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["rad"]


@pytest.mark.parametrize(
    ("more", "words_"),
    [
        (["data", "prepare", "medical_cl"], ("--raw", "--out")),
        (["data", "prepare", "nothing", "--raw", ".", "--out", "x"], ("no converter for 'nothing'",)),
        (["data", "prepare", "medical_cl", "--raw", "gone", "--out", "x"], ("is not a folder",)),
        (["data", "prepare", "medical_cl", "--raw", ".", "--out", "x", "--set", "sur"], ("--set sur",)),
    ],
)
def test_problems_have_exit_code_2(tmp_path, monkeypatch, capsys, more, words_):
    monkeypatch.chdir(tmp_path)
    assert main(more) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words_)
    assert not (tmp_path / "x").exists()


def test_a_library_that_is_not_installed_names_the_extra(tmp_path, raw, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "zarr", None)
    assert main(words(raw, tmp_path, "--task", "cell")) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert 'pip install "cl-plugins[data]"' in error
    assert "zarr" in error


def test_raw_files_side_by_side(tmp_path, raw):
    """Without one folder per task, the tasks look into the same folder."""
    flat = tmp_path / "flat"
    for task in ("path", "rad"):
        shutil.copytree(raw / task, flat, dirs_exist_ok=True)
    assert main(words(flat, tmp_path / "out", "--task", "path", "--task", "rad")) == 0
    assert (tmp_path / "out" / "medical_cl_path_test.jsonl").is_file()
