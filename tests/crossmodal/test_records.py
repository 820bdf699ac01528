"""Records are checked before the first training: what is in them, what their files say, and what is cut of them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_encoders import small_recipe, stream, write
from tiny_encoders import CONFIGS

from cl_plugins.base.errors import DataError
from cl_plugins.cli.validate import check_recipe
from cl_plugins.crossmodal.encoders import config_of
from cl_plugins.crossmodal.inputs import CrossModalProcessor, EncoderSpec
from cl_plugins.crossmodal.media import write_wav
from cl_plugins.encoders.checking import check_finite
from cl_plugins.encoders.launch import run_recipe
from cl_plugins.report.notes import cut_notes


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("cl_plugins.report.write_report", lambda *args: None)
    monkeypatch.setattr("cl_plugins.report.terminal_table", lambda *args: "")


@pytest.fixture
def sets(tmp_path):
    return stream(tmp_path, ["ant", "bee"], ["cat", "dog"])


def refused(raw):
    with pytest.raises(DataError) as found:
        run_recipe(raw)
    return str(found.value)


@pytest.mark.parametrize("which", ["2_train", "2_test"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[float("nan"), 1.0]] * 32, "no table of finite numbers"),
        ([[None, 1.0]] * 32, "no table of finite numbers"),
        ([[1.0, 2.0, 3.0]] * 32, "3 channels"),
        ([], "no table of finite numbers"),
        ({"x": 1}, "cannot be read"),
        (7, "cannot be read"),
    ],
)
def test_a_value_in_a_late_record_is_an_error_before_the_first_training(tmp_path, sets, which, value, said):
    sets[which][3]["motion"] = value
    text = refused(small_recipe(write(tmp_path / "data", sets), tmp_path / "run"))
    assert f"{which}.jsonl, record 4, motion" in text
    assert said in text
    assert not (tmp_path / "run/tasks").exists()


def test_a_label_that_a_task_does_not_name(tmp_path, sets):
    sets["2_train"][2]["label"] = sets["2_train"][4]["label"] = "elk"
    sets["2_test"][1]["label"] = "fox"
    tasks = [
        {"name": f"t{n}", "train": f"{n}_train", "test": f"{n}_test", "overrides": {"labels": labels}}
        for n, labels in ((1, ["ant", "bee"]), (2, ["cat", "dog"]))
    ]
    raw = small_recipe(write(tmp_path / "data", sets), tmp_path / "run", cl={"stream": {"name": "s", "tasks": tasks}})
    text = refused(raw)
    assert "2_train.jsonl, records 3, 5: has the label 'elk', which is no class of task 't2'" in text
    assert "2_test.jsonl, record 2: has the label 'fox'" in text
    assert not (tmp_path / "run/tasks").exists()


def test_a_label_that_is_never_learned_is_told(tmp_path, sets, heard):
    sets["1_test"][1]["label"] = "fox"
    assert check_recipe(small_recipe(write(tmp_path / "data", sets), tmp_path / "run"))[0] == []
    assert "record 2 has the label 'fox', which is no class of the stream, so that it is never answered" in heard.text


def test_what_is_cut_is_told_counted_and_reported(tmp_path, sets, heard):
    for record in sets["2_train"][:4]:
        record["words"] = "one two three four"
    sets["1_test"][0]["words"] = "one two three four"
    raw = small_recipe(write(tmp_path / "data", sets), tmp_path / "run")
    raw["encoders"] = {**raw["encoders"], "words": {**raw["encoders"]["words"], "max_length": 4}}
    run_recipe(raw)
    assert "task 't2': 4 of 6 training records are cut (words of 4)" in heard.text
    assert "task 't1': 1 of 4 test records are cut (words of 1)" in heard.text
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["training_data"]["t2"]["cut_samples"] == 4
    assert info["training_data"]["t1"]["cut_samples"] == 0
    assert info["test_data"] == {"t1": {"items": 4, "cut_items": 1}}
    run = SimpleNamespace(info=info, tasks=["t1", "t2"], rows=())
    assert cut_notes(run) == [
        "Training data of t2: max_length or seconds of an encoder truncates the end of 4 samples.",
        "Test data of t1: max_length or seconds of an encoder truncates the end of 1 of 4 items.",
    ]
    run_recipe(raw)  # nothing is left to do, and what was counted stays
    assert json.loads((tmp_path / "run/run.json").read_text())["test_data"] == info["test_data"]


def test_a_test_item_that_is_trained_on_is_told(tmp_path, sets, heard):
    sets["2_train"][3] = {**sets["1_test"][2], "id": "again", "label": "cat"}
    assert check_recipe(small_recipe(write(tmp_path / "data", sets), tmp_path / "run"))[0] == []
    told = (
        "task 't2': its training set contains 1 of the 4 test items of task 't1' (first: item '1_test/2' in sample 3)"
    )
    assert told in heard.text


# --- what a reader sees of a value, and what it makes of it


def processor(name, config, **spec):
    return CrossModalProcessor({name: EncoderSpec(**spec, config=config)}, {name: config_of(config)})


SOUNDS = {
    "wav2vec2": {"sampling_rate": 8000, "seconds": 0.05},
    "ast": {},
    "whisper": {},
}


@pytest.mark.parametrize("kind", ["wav", "npy", "inline"])
@pytest.mark.parametrize("family", SOUNDS)
def test_a_sound_is_cut_where_its_end_changes_nothing(tmp_path, family, kind):
    reading = processor("sound", CONFIGS[family], kind="audio", **SOUNDS[family])
    rate = SOUNDS[family].get("sampling_rate", 16000)
    rng = np.random.default_rng(0)

    def value(samples, name):
        if kind == "inline":
            return samples.tolist()
        path = tmp_path / f"{name}.{kind}"
        write_wav(path, samples, rate) if kind == "wav" else np.save(path, samples)
        return str(path)

    for seconds in (0.03, 0.1, 0.19, 0.4, 0.9):
        samples = rng.uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)
        other = samples.copy()
        other[-rate // 100 :] = 0.4
        one, two = (value(x, f"{seconds}{n}") for n, x in enumerate((samples, other)))
        first, second = (reading([{"sound": v}]) for v in (one, two))
        same = all(torch.allclose(first[key], second[key]) for key in first)
        if family == "wav2vec2":  # normalised over what is left
            assert reading.look("sound", one) == (len(samples) > 400)
        elif reading.look("sound", one):
            assert same or seconds < 0.25  # some of it, or all of the last part
        else:
            assert not same


def test_files_are_opened_before_they_are_used(tmp_path):
    picture = processor("picture", CONFIGS["vit"], kind="vision")
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    assert picture.look("picture", str(tmp_path / "good.png")) is False
    assert picture.look("picture", [str(tmp_path / "good.png")] * 2) is False
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for value in (str(tmp_path / "bad.png"), str(tmp_path / "empty.mp4"), [], [3], 3):
        with pytest.raises((OSError, ValueError, TypeError)):
            picture.look("picture", value)


def test_numbers_in_files(tmp_path):
    signal = processor("motion", CONFIGS["signal"], kind="signal")
    for name, good in {"a": np.zeros((5, 2)), "large": np.zeros((40_000, 2))}.items():
        np.save(tmp_path / f"{name}.npy", good)
        assert signal.look("motion", str(tmp_path / f"{name}.npy")) is False
    for name, bad in {"nan": np.full((5, 2), np.nan), "wide": np.zeros((40_000, 3)), "text": np.array(["a"])}.items():
        np.save(tmp_path / f"{name}.npy", bad)
        with pytest.raises(ValueError, match=r"numbers|channels|shape|convert"):
            signal.look("motion", str(tmp_path / f"{name}.npy"))
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n3\n")
    with pytest.raises(ValueError, match="line 3 has 1 cell"):
        signal.look("motion", str(tmp_path / "bad.csv"))


def test_numbers_that_are_not_finite_name_their_record(tmp_path):
    sound = processor("sound", CONFIGS["wav2vec2"], kind="audio", sampling_rate=8000, seconds=0.05)
    wave = np.full(400, 0.1)
    wave[3] = np.nan
    np.save(tmp_path / "a.npy", wave)
    with pytest.raises(DataError, match=r"record 'x', sound.*finite"):
        sound([{"id": "x", "sound": str(tmp_path / "a.npy")}])
    with pytest.raises(ValueError, match="finite"):
        sound.look("sound", str(tmp_path / "a.npy"))


def test_scores_that_are_no_numbers_are_no_answer():
    records, parts = [{"id": "x"}, {"id": "y"}], torch.zeros(2, 2, 3)
    logits = torch.zeros(2, 4)
    check_finite(("sound", "words"), records, parts, logits)
    logits[1, 2], parts[1, 0, 1] = torch.nan, torch.inf
    with pytest.raises(DataError, match=r"item 'y'.*its sound"):
        check_finite(("sound", "words"), records, parts, logits)
    with pytest.raises(DataError, match=r"item 'y'.*what is trained"):
        check_finite(("sound", "words"), records, torch.zeros(2, 2, 3), logits)
