"""The demo stream: same bytes for the same seed, honest splits, bins from the training part, records LLaMA-Factory reads."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import importlib.util
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cl_plugins.base.errors import DataError
from cl_plugins.data.demo import cell, neuro, stream
from cl_plugins.data.demo.__main__ import main
from cl_plugins.data.demo.items import bin_of, count_edges, draw_balanced, tercile_edges, turn
from cl_plugins.data.demo.sources import MNI_T1, NUCLEI_MASK, Source, require
from cl_plugins.streams import load_stream


for _name in ("skimage", "stardist", "nilearn"):
    if importlib.util.find_spec(_name) is None:
        pytest.skip(f"{_name} holds the demo's pictures", allow_module_level=True)


LETTER_TASKS = ("path", "neuro", "cell")
ALL_TASKS = (*LETTER_TASKS, "rad")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the command writes."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["--out", str(folder)]) == 0
    assert str(folder) in said.getvalue()
    return folder


def records(folder: Path, task: str, part: str) -> list[dict]:
    return json.loads((folder / f"{task}_{part}.json").read_text())


def digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_two_builds_have_equal_bytes_and_another_seed_has_not(demo, tmp_path):
    """Also where the second build is over an earlier demo."""
    first = digests(demo)
    other = digests(stream.build(tmp_path / "data", seed=1))
    assert all(other[f"{task}_train.json"] != first[f"{task}_train.json"] for task in ALL_TASKS)
    assert digests(stream.build(tmp_path / "data")) == first


def test_a_folder_with_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not empty and not a demo folder"):
        stream.build(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_records_have_one_picture_for_each_placeholder_and_unique_ids(demo, task):
    for part in ("train", "test"):
        found = records(demo, task, part)
        assert len({record["id"] for record in found}) == len(found)
        assert 200 <= len(found) <= 600 if part == "train" else 100 <= len(found) <= 200
        for record in found:
            human, assistant = record["conversations"]
            assert (human["from"], assistant["from"]) == ("human", "gpt")
            assert human["value"].count("<image>") == len(record["images"]) == 1
            with Image.open(demo / record["images"][0]) as picture:
                assert (picture.size, picture.mode) == ((32, 32), "RGB")


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_question_carries_no_hint(demo, task):
    turns = {record["conversations"][0]["value"] for part in ("train", "test") for record in records(demo, task, part)}
    assert len(turns) == 1
    options = {tuple(r.get("options", ())) for part in ("train", "test") for r in records(demo, task, part)}
    assert len(options) == 1
    if task in LETTER_TASKS:
        listed = next(iter(options))
        assert all(f"{letter}. {text}" in next(iter(turns)) for letter, text in zip("ABC", listed, strict=True))


@pytest.mark.parametrize("task", LETTER_TASKS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_letters_are_balanced(demo, task, part):
    counts = Counter(record["conversations"][1]["value"] for record in records(demo, task, part))
    assert set(counts) == set("ABC")
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("task", ALL_TASKS)
def test_training_and_test_regions_do_not_meet(demo, task):
    def region(record):
        origin = record["origin"]
        return origin["picture"], origin["slice"], origin["box"]

    held_out = [region(record) for record in records(demo, task, "test")]
    for picture, index, (top, bottom, left, right) in map(region, records(demo, task, "train")):
        for other, other_index, (o_top, o_bottom, o_left, o_right) in held_out:
            if picture != other:
                continue
            if ":" in picture:  # a volume: slices at least three apart
                assert abs(index - other_index) >= 3
            else:  # a flat picture: a gap of 16 pixels at one side
                gaps = (o_top - bottom, top - o_bottom, o_left - right, left - o_right)
                assert max(gaps) >= 16


@pytest.mark.parametrize("task", ALL_TASKS)
def test_no_picture_of_the_test_set_is_in_the_training_set(demo, task):
    def pixels(part):
        return {Image.open(demo / record["images"][0]).tobytes() for record in records(demo, task, part)}

    assert not pixels("train") & pixels("test")


def test_bins_of_cell_come_from_the_training_part_alone(monkeypatch, demo):
    edges = json.loads((demo / stream.MANIFEST).read_text())["tasks"]["cell"]["bins"]["nuclei"]
    mask = cell.read_plane(NUCLEI_MASK)
    border = cell.held_out_border(mask)
    top, bottom, left, right = cell._part(mask.shape, border, training=False)
    emptied = mask.copy()
    # Remove most nuclei of the held-out strip: with the same strip the bins must stay.
    for number in np.unique(mask[top:bottom, left:right])[1:]:
        inside = (mask == number)[top:bottom, left:right].sum() == (mask == number).sum()
        if inside and number % 3 == 0:
            emptied[mask == number] = 0
    assert (emptied != mask).any()
    monkeypatch.setattr(cell, "held_out_border", lambda _: border)
    original = cell.read_plane
    monkeypatch.setattr(cell, "read_plane", lambda source: emptied if source is NUCLEI_MASK else original(source))
    assert cell.build(np.random.default_rng(0), test=3).bins["nuclei"] == edges


def test_labels_of_cell_follow_from_the_masks(demo):
    mask = cell.read_plane(NUCLEI_MASK)
    edges = json.loads((demo / stream.MANIFEST).read_text())["tasks"]["cell"]["bins"]["nuclei"]
    for record in records(demo, "cell", "test")[:20]:
        top, bottom, left, right = record["origin"]["box"]
        window = mask[top:bottom, left:right]
        whole = sum(2 * (window == n).sum() >= (mask == n).sum() for n in np.unique(window) if n)
        assert record["conversations"][1]["value"] == "ABC"[bin_of(whole, edges)]


def test_neuro_marks_the_voxel_with_a_whole_red_box(demo):
    for record in records(demo, "neuro", "train")[:50]:
        picture = np.asarray(Image.open(demo / record["images"][0]))
        red = (picture == (255, 0, 0)).all(-1)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        assert red.sum() == 4 * (neuro.BOX - 1)
        assert len(rows) == len(columns) == neuro.BOX


def test_neuro_needs_the_box(demo):
    """The three tissues are told apart by what the box holds: fluid is dark, white matter bright, grey between."""
    values: dict[str, list[float]] = {letter: [] for letter in "ABC"}
    for record in records(demo, "neuro", "train"):
        picture = np.asarray(Image.open(demo / record["images"][0])).astype(int)
        red = (picture == (255, 0, 0)).all(-1)
        top, left = np.flatnonzero(red.any(1))[0], np.flatnonzero(red.any(0))[0]
        inside = picture[top + 3 : top + 6, left + 3 : left + 6, 1].mean()
        values[record["conversations"][1]["value"]].append(inside)
    grey, white, fluid = (float(np.median(values[letter])) for letter in "ABC")
    assert fluid < grey - 20 < white - 40


def test_stream_file_and_dataset_info_agree(demo):
    loaded = load_stream(str(demo / "stream.yaml"), where="cl.stream")
    info = json.loads((demo / "dataset_info.json").read_text())
    assert loaded.task_names == ALL_TASKS
    assert {name for task in loaded.tasks for name in (*task.train, *task.test)} == set(info)
    assert [task.scorer for task in loaded.tasks] == ["choice_accuracy"] * 3 + ["bleu"]
    assert loaded.notes
    raw = yaml.safe_load((demo / "stream.yaml").read_text())
    assert [task.get("options_column") for task in raw["tasks"]] == ["options"] * 3 + [None]


def test_manifest_counts_balance_sources_and_hashes(demo):
    manifest = json.loads((demo / stream.MANIFEST).read_text())
    for task in ALL_TASKS:
        assert manifest["tasks"][task]["train"] == len(records(demo, task, "train"))
        assert sum(manifest["tasks"][task]["test_answers"].values()) == len(records(demo, task, "test"))
    assert all(source["sha256"] and source["licence"] and source["origin"] for source in manifest["sources"])
    assert manifest["sha256"]["path_train.json"] == hashlib.sha256((demo / "path_train.json").read_bytes()).hexdigest()


def test_everything_missing_is_named_at_once_with_the_command():
    gone = Source("x", "no_such_module_here", "no-such-package", "a.png", "", "")
    lost = Source("y", "nilearn", "nilearn", "datasets/data/lost.nii.gz", "", "")
    with pytest.raises(DataError) as caught:
        require((gone, lost, MNI_T1), modules=("another_missing_module",))
    text = str(caught.value)
    assert all(word in text for word in ("no-such-package", "lost.nii.gz", "another_missing_module"))
    assert 'pip install "cl-plugins[demo]"' in text
    assert len(caught.value.problems) == 3


def test_the_packages_are_located_without_importing_them(monkeypatch):
    original = builtins.__import__

    def guarded(name, *rest, **more):
        assert name.split(".")[0] not in ("stardist", "nilearn", "torch", "tensorflow"), name
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert MNI_T1.path() is not None
    assert NUCLEI_MASK.path() is not None


def test_the_command_writes_the_base_and_fails_with_one_line(demo, tmp_path, capsys):
    assert (demo / "base" / "model.safetensors").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    assert main(["--out", str(tmp_path / "other")]) == 1
    assert "not a demo folder" in capsys.readouterr().err


def test_bins_have_equal_frequency():
    values = np.arange(300, dtype=np.float64)
    edges = tercile_edges(values)
    assert [int(n) for n in np.bincount([bin_of(value, edges) for value in values])] == [100, 100, 100]
    counts = np.repeat([1, 2, 3, 4, 5, 6], [50, 50, 10, 90, 60, 40])
    assert count_edges(counts) == [3.0, 5.0]
    assert count_edges(np.repeat([3, 4, 5], 10)) == [4.0, 5.0]


def test_a_class_that_cannot_be_filled_is_an_error_not_a_hang():
    with pytest.raises(DataError, match="cannot draw 5 items of each class"):
        draw_balanced(lambda rng: None, 3, 5, np.random.default_rng(0), "task")


def test_the_eight_turns_are_different():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({turn(picture, which).tobytes() for which in range(8)}) == 8
