"""The converters of Medical-CL on miniatures in the raw formats, with the oddities of the real files."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepare_toys import digests, lines, png
from raw_medical_cl import miniature

from cl_plugins.base.errors import DataError
from cl_plugins.data.prepare import Context
from cl_plugins.data.prepare.archives import unpack
from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.data.prepare.medical_cl import cell, pitvis
from cl_plugins.data.prepare.medical_cl.cell import stretch
from cl_plugins.evaluation.scorers.options import parse_options
from cl_plugins.streams import load_stream


def go(raw, out, task, **more):
    return prepare(Request("medical_cl", raw, out, tasks=(task,), **more))


def answer(record):
    return record["conversations"][1]["value"]


def question(record):
    return record["conversations"][0]["value"]


def letters_right(records):
    """The letter leads to the answer's text, and the scorer reads the same options from the question."""
    for record in records:
        assert record["options"]["ABCDEF".index(answer(record))] == record["answer_text"]
        assert parse_options(question(record)) == tuple(record["options"])
    return True


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    miniature.make_cell(folder / "cell", per_class=4)
    miniature.make_rad(folder / "rad")
    miniature.make_sur(folder / "sur", videos=(1, 2, 19, 24), seconds=25)
    return folder


SOME = {"sur.videos": "1,2,19,24"}


# --- Path


@pytest.mark.parametrize(
    ("make", "splits", "remark"),
    [
        (miniature.make_path_mllm_cl, ("train", "test"), "as in the paper"),
        (miniature.make_path_parquet, ("train", "validation", "test"), "official split of PathVQA (parquet)"),
        (miniature.make_path_pickle, ("train", "validation", "test"), "official split of PathVQA (pickle)"),
    ],
)
def test_path_in_three_forms(tmp_path, make, splits, remark):
    make(tmp_path / "raw")
    made = go(tmp_path / "raw", tmp_path / "out", "path", workers=2)
    assert list(made) == [f"medical_cl_path_{split}" for split in splits]
    for name, entry in made.items():
        records = lines(tmp_path / "out" / f"{name}.jsonl")
        assert len(records) == entry["records"] == (48 if name.endswith("train") else 16)
        assert {r["answer_type"] for r in records} == {"yes/no", "other"}
        assert all((r["answer_type"] == "yes/no") == (answer(r) in ("yes", "no")) for r in records)
        assert all(question(r).startswith("<image>\n") and question(r).count("<image>") == 1 for r in records)
        assert remark in entry["remarks"][0]
        first = Image.open(tmp_path / "out" / records[0]["images"][0])
        assert first.size == (32, 40)


def test_path_takes_the_papers_form_if_there_are_several(tmp_path):
    for make in (miniature.make_path_mllm_cl, miniature.make_path_parquet, miniature.make_path_pickle):
        make(tmp_path / "raw" / "path")
    assert len(go(tmp_path / "raw", tmp_path / "a", "path")) == 2
    forced = go(tmp_path / "raw", tmp_path / "b", "path", settings={"path.form": "parquet"})
    assert len(forced) == 3


@pytest.mark.parametrize(
    "make", [miniature.make_path_mllm_cl, miniature.make_path_parquet, miniature.make_path_pickle]
)
def test_path_as_multiple_choice(tmp_path, make):
    make(tmp_path / "raw")
    go(tmp_path / "raw", tmp_path / "out", "path", settings={"path.questions": "choice"})
    records = lines(tmp_path / "out" / "medical_cl_path_test.jsonl")
    assert letters_right(records)
    for record in records:
        if record["answer_type"] == "yes/no":
            assert record["options"] == ["yes", "no"]
        else:
            assert len(record["options"]) == 4
            assert not {"yes", "no"} & set(record["options"])
    assert len({answer(r) for r in records if r["answer_type"] == "other"}) > 1


def test_path_malformed_records_are_dropped(tmp_path):
    raw = tmp_path / "raw"
    miniature.make_path_mllm_cl(raw)
    path = raw / "Med" / "test.json"
    records = json.loads(path.read_text())
    records[0]["text"] = "<image>\nwhat does <video> stand for?"
    records[1]["answer"] = float("nan")
    records[2]["image"] = ["images/test_0002.jpg"]  # a list of one is a picture
    records[3]["image"] = ["images/test_0003.jpg", "images/test_0004.jpg"]
    records[4]["image"] = "../../../etc/passwd"
    records[5] = "no record"
    (raw / "Med" / "images" / "test_0006.jpg").write_bytes(b"broken")
    (raw / "Med" / "images" / "test_0007.jpg").write_bytes(png((8000, 7000)))
    del records[8]["text"]
    records[9]["image"] = "test_0009.jpg"  # without the folder
    path.write_text(json.dumps(records))
    entry = go(raw, tmp_path / "out", "path")["medical_cl_path_test"]
    assert entry["dropped"]["reasons"] == {
        "answer is missing": 1,
        "picture cannot be read": 2,
        "picture cannot be decoded": 1,
        "picture is too large": 1,
        "question is missing": 2,
    }
    assert entry["records"] == 9
    assert entry["escaped_placeholders"] == 1
    first = lines(tmp_path / "out" / "medical_cl_path_test.jsonl")[0]
    assert question(first) == "<image>\nwhat does < video > stand for?"


@pytest.mark.parametrize("questions", ["open", "choice"])
def test_path_test_questions_with_a_placeholder_are_asked_as_training_has_them(tmp_path, questions):
    raw = tmp_path / "raw"
    miniature.make_path_mllm_cl(raw)
    for split in ("train", "test"):
        path = raw / "Med" / f"{split}.json"
        records = json.loads(path.read_text())
        if split == "test":
            for record in records:
                record["text"] = "<image>\n" + record["text"]
        path.write_text(json.dumps(records))
    made = go(raw, tmp_path / "out", "path", settings={"path.questions": questions})
    for split in ("train", "test"):
        assert made[f"medical_cl_path_{split}"]["escaped_placeholders"] == 0
        for record in lines(tmp_path / "out" / f"medical_cl_path_{split}.jsonl"):
            assert question(record).startswith("<image>\n")
            assert question(record).count("image") == 1


def test_truncated_parquet_is_found_before_the_work(tmp_path):
    miniature.make_path_parquet(tmp_path / "raw")
    for name in ("test", "train"):
        path = next((tmp_path / "raw" / "data").glob(f"{name}-*"))
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError) as error:
        go(tmp_path / "raw", tmp_path / "out", "path")
    assert len(error.value.problems) == 2
    assert "Download it again" in str(error.value)
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_path_missing_parts_of_the_pickles(tmp_path):
    miniature.make_path_pickle(tmp_path / "raw")
    (tmp_path / "raw" / "pvqa" / "qas" / "test_vqa.pkl").unlink()
    shutil.rmtree(tmp_path / "raw" / "pvqa" / "images" / "val")
    with pytest.raises(DataError, match=r"test_vqa\.pkl.*images/val.*PathVQA"):
        go(tmp_path / "raw", tmp_path / "out", "path")


def test_small_pickles_without_types(tmp_path):
    import pickle

    miniature.make_path_pickle(tmp_path / "raw")
    qas = tmp_path / "raw" / "pvqa" / "qas"
    for split in ("train", "val", "test"):
        entries = [{"image": f"{split}_0000", "question": "what?", "answer": "this"}]
        (qas / split).mkdir()
        (qas / split / f"{split}_qa.pkl").write_bytes(pickle.dumps(entries))
        (qas / f"{split}_vqa.pkl").unlink()
    go(tmp_path / "raw", tmp_path / "out", "path")
    assert answer(lines(tmp_path / "out" / "medical_cl_path_test.jsonl")[0]) == "this"


# --- Sur


def colour_of(out, record):
    return np.asarray(Image.open(out / record["images"][0]).convert("RGB"))[20:, :].mean((0, 1))


def code_of(video, time, raw):
    with (raw / "sur" / "26531686" / f"annotations_{video:02d}.csv").open() as file:
        return next(int(r["int_instrument1"]) for r in csv.DictReader(file) if int(r["int_time"]) == time)


def test_sur_frames_show_what_the_annotation_says(tmp_path, raw):
    made = go(raw, tmp_path, "sur", settings=SOME)
    train, test = (lines(tmp_path / f"medical_cl_sur_{split}.jsonl") for split in ("train", "test"))
    assert {r["video"] for r in train} == {"2"}
    assert {r["video"] for r in test} == {"1", "24"}  # 24 and 25 frames per second
    assert {r["time"] for r in train} == {"0", "6", "12", "18", "24"}
    for record in [*train, *test]:
        code = code_of(int(record["video"]), int(record["time"]), raw)
        shown = miniature._frame(code, 0, (48, 64))[20:, :].mean((0, 1))
        assert np.abs(colour_of(tmp_path, record) - shown).max() < 14, record["id"]
        name = pitvis.FIXED.get(code) or miniature.INSTRUMENTS[code].replace("_", " ").strip()
        assert record["answer_text"] == name
        assert len(record["options"]) == 6
        assert set(pitvis.FIXED.values()) <= set(record["options"])
    assert letters_right([*train, *test])
    assert "video 19 is left out" in made["medical_cl_sur_train"]["remarks"][0]
    assert made["medical_cl_sur_test"]["remarks"] == made["medical_cl_sur_train"]["remarks"][1:]


def test_sur_last_annotation_has_no_frame(tmp_path):
    miniature.make_sur(tmp_path / "raw", videos=(1, 2), seconds=12)
    made = go(tmp_path / "raw", tmp_path / "out", "sur", settings={"sur.videos": "1,2"})
    assert made["medical_cl_sur_test"]["dropped"]["reasons"] == {"no frame at that time": 1}
    assert [r["time"] for r in lines(tmp_path / "out" / "medical_cl_sur_test.jsonl")] == ["0", "6"]


def test_sur_time_of_the_paper_takes_other_frames(tmp_path, raw):
    go(raw, tmp_path, "sur", settings={**SOME, "sur.time": "paper"})
    for record in lines(tmp_path / "medical_cl_sur_train.jsonl"):
        # Second t / 24 of the video: for t up to 24 that is second 0 or 1, whatever the annotation says.
        shown = miniature._frame(code_of(2, round(int(record["time"]) / 24 - 0.5), raw), 0, (48, 64))[20:, :].mean(
            (0, 1)
        )
        assert np.abs(colour_of(tmp_path, record) - shown).max() < 14


@pytest.mark.parametrize(
    ("times", "rate", "scale"),
    [
        ([0, 1, 2, 3], 25, 1),
        ([0, 24, 48], 24, 1 / 24),
        ([0, 25, 50, 75], 25, 1 / 25),
        ([], 24, 1),
        ([0, None, 1], 24, 1),
    ],
)
def test_whether_the_file_counts_seconds_or_frames(times, rate, scale):
    assert pitvis.seconds_per_step(times, rate) == pytest.approx(scale)


def test_seeking_gives_the_same_frames_as_decoding_from_the_start(raw):
    path = raw / "sur" / "26531686" / "video_24.mp4"
    whole = dict(pitvis.frames_at(path, [float(t) for t in range(25)]))
    later = dict(pitvis.frames_at(path, [11.0, 11.5, 20.0]))
    assert (later[0] == whole[11]).all()
    assert (later[2] == whole[20]).all()
    assert list(dict(pitvis.frames_at(path, [24.0, 25.0, 90.0]))) == [0]
    assert pitvis.frame_rate(path) == 25


@pytest.mark.parametrize("first", [0, 1])
def test_sur_from_extracted_frames(tmp_path, first):
    miniature.make_sur_frames(tmp_path / "raw", videos=(1, 2), seconds=12, first=first)
    (tmp_path / "raw" / "frames" / "video_02" / f"{6 + first:05d}.png").write_bytes(b"broken")
    made = go(tmp_path / "raw", tmp_path / "out", "sur", settings={"sur.videos": "1,2"})
    (only,) = lines(tmp_path / "out" / "medical_cl_sur_train.jsonl")
    assert only["time"] == "0"
    assert made["medical_cl_sur_train"]["dropped"]["reasons"] == {
        "no frame at that time": 1,
        "picture cannot be decoded": 1,
    }
    second = lines(tmp_path / "out" / "medical_cl_sur_test.jsonl")[1]
    stored = (tmp_path / "out" / second["images"][0]).read_bytes()
    assert stored == (tmp_path / "raw" / "frames" / "video_01" / f"{6 + first:05d}.png").read_bytes()


def frames_of(tmp_path, first, gone=()):
    """Frames of the videos 1 and 2 with some of video 2 missing; returns the folder of those."""
    miniature.make_sur_frames(tmp_path / "raw", videos=(1, 2), seconds=12, first=first)
    folder = tmp_path / "raw" / "frames" / "video_02"
    for second in gone:
        (folder / f"{second + first:05d}.png").unlink()
    return folder


def shown(tmp_path, settings=()):
    """Time -> whether the frame of that time is shown."""
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    go(tmp_path / "raw", out, "sur", settings={"sur.videos": "1,2", "sur.every": "3", **dict(settings)})
    first = 0 if (tmp_path / "raw" / "frames" / "video_01" / "00000.png").is_file() else 1
    return {
        int(r["time"]): (out / r["images"][0]).read_bytes()
        == (tmp_path / "raw" / "frames" / "video_02" / f"{int(r['time']) + first:05d}.png").read_bytes()
        for r in lines(out / "medical_cl_sur_train.jsonl")
    }


def test_sur_frames_are_never_shifted_by_one_that_is_missing(tmp_path):
    folder = frames_of(tmp_path, first=0, gone=[0])
    with pytest.raises(DataError, match=r"no frame 0 and ends with frame 11, .* second 12.*sur\.first=0"):
        shown(tmp_path)
    assert shown(tmp_path, {"sur.first": "0"}) == {3: True, 6: True, 9: True}
    (folder / "00000.png").write_bytes((folder / "00001.png").read_bytes())
    with pytest.raises(DataError, match="has a frame 0"):
        shown(tmp_path, {"sur.first": "1"})


def test_sur_frames_from_one_that_are_missing(tmp_path):
    folder = frames_of(tmp_path, first=1, gone=[0, 6])
    assert shown(tmp_path) == {3: True, 9: True}
    (folder / "00012.png").unlink()
    with pytest.raises(DataError, match=r"sur\.first=1"):
        shown(tmp_path)
    assert shown(tmp_path, {"sur.first": "1"}) == {3: True, 9: True}


def test_sur_frames_that_are_not_one_a_second(tmp_path):
    folder = frames_of(tmp_path, first=0)
    shutil.copy(folder / "00001.png", folder / "00240.png")
    with pytest.raises(DataError, match="has frame 240, but its last annotation is of second 12"):
        shown(tmp_path)
    (folder / "00240.png").rename(folder / "mask_00003.png")
    with pytest.raises(DataError, match=r"00003\.png and mask_00003\.png have the same number"):
        shown(tmp_path)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(DataError, match="holds no frames"):
        shown(tmp_path)


def test_sur_missing_annotations_are_listed_but_not_those_of_19(tmp_path, raw):
    shutil.copytree(raw / "sur", tmp_path / "raw")
    (tmp_path / "raw" / "26531686" / "annotations_24.csv").unlink()
    with pytest.raises(DataError) as error:
        go(tmp_path / "raw", tmp_path / "out", "sur", settings=SOME)
    named = re.findall(r"annotations_\d+\.csv", str(error.value).split("Obtain")[0])
    assert named == ["annotations_24.csv"]
    with pytest.raises(DataError) as error:
        go(tmp_path / "raw", tmp_path / "out", "sur")
    assert "video_03.mp4" in str(error.value)


def test_sur_labels_that_are_no_numbers(tmp_path, raw):
    shutil.copytree(raw / "sur", tmp_path / "raw")
    path = tmp_path / "raw" / "26531686" / "annotations_02.csv"
    rows = path.read_text().splitlines()
    rows[1], rows[7], rows[13] = "2,0,1,NaN,-2", "2,6,1,,-2", "2,12,1,77,-2"
    path.write_text("\n".join(rows))
    made = go(tmp_path / "raw", tmp_path / "out", "sur", settings=SOME)["medical_cl_sur_train"]
    assert made["dropped"]["reasons"] == {"label is missing": 2, "unknown instrument code": 1}
    assert made["records"] == 2


def test_sur_damaged_video(tmp_path, raw):
    shutil.copytree(raw / "sur", tmp_path / "raw")
    (tmp_path / "raw" / "26531686" / "video_02.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"video_02\.mp4: cannot be read as a video"):
        go(tmp_path / "raw", tmp_path / "out", "sur", settings=SOME)
    assert (tmp_path / "out" / "medical_cl_sur_test.jsonl").is_file()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sur.every": "0"}, "whole number above 0"),
        ({"sur.videos": "2"}, "leaves no test video"),
        ({"sur.videos": "1,2,x"}, "Write it like 1,2,24"),
        ({"sur.videos": "1,2,30"}, "names 30, which the release does not have"),
        ({"sur.videos": "x"}, "Write it like 1,2,24"),
        ({"sur.videos": "1,2,²"}, "Write it like 1,2,24"),
        ({"sur.videos": "1,2," + "9" * 5000}, "Write it like 1,2,24"),
        ({"sur.every": "²"}, "whole number above 0"),
        ({"sur.every": "6.0"}, "whole number above 0"),
        ({"sur.first": "2"}, "Choose from: auto, 0, 1"),
        ({"sur.form": "frames", "sur.time": "paper"}, "frames/video_01"),
    ],
)
def test_sur_settings_that_cannot_be(tmp_path, raw, settings, words):
    with pytest.raises(DataError, match=words):
        go(raw, tmp_path, "sur", settings={**SOME, **settings})


# --- Cell


def test_cell_items_split_and_options(tmp_path, raw):
    made = go(raw, tmp_path, "cell", workers=2)
    train, test = (lines(tmp_path / f"medical_cl_cell_{split}.jsonl") for split in ("train", "test"))
    assert (len(train), len(test)) == (30 * 23, 10 * 23)
    assert not {r["cell"] for r in train} & {r["cell"] for r in test}  # all channels of a cell on one side
    assert {r["answer_text"] for r in test} == set(cell.CLASSES)
    assert {r["channel"] for r in train} == set(miniature.CHANNELS)
    assert letters_right(test)
    for record in test:
        assert len(record["options"]) == 6
        assert {"unclassified cell", "debris or artefact"} <= set(record["options"])
        assert record["channel"] in question(record)
    stems = {question(r).split("\n")[1].replace(r["channel"], "*") for r in train}
    assert len(stems) == 7
    picture = Image.open(tmp_path / test[0]["images"][0])
    assert (picture.size, picture.mode) == ((32, 32), "L")
    assert made["medical_cl_cell_train"]["dropped"]["count"] == 0


def test_cell_rows_that_contradict_one_another_are_dropped(tmp_path, raw):
    """The last row of a cell used to win."""
    folder = tmp_path / "raw"
    shutil.copytree(raw / "cell", folder)
    path, index = folder / "BSCCM_surface_markers.csv", folder / "BSCCM_index.csv"
    before = go(folder, tmp_path / "before", "cell")
    records = [r for s in ("train", "test") for r in lines(tmp_path / "before" / f"medical_cl_cell_{s}.jsonl")]
    labels = {r["cell"]: r["answer_text"] for r in records}
    one, same, other = sorted(labels, key=int)[:3]
    rows = {row["global_index"]: row for row in csv.DictReader(path.open())}
    gates = [name for name in rows[one] if "selection_gated" in name]
    different = next(row for cell, row in rows.items() if labels.get(cell) not in (None, labels[one]))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[one]))
        writer.writerow({**rows[one], **{gate: different[gate] for gate in gates}})
        writer.writerow(rows[same])
    places = {row["global_index"]: row for row in csv.DictReader(index.open())}
    with index.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(places[other]))
        writer.writerow({**places[other], "data_path": "elsewhere"})
    made = go(folder, tmp_path / "out", "cell")
    reasons: dict[str, int] = {}
    for entry in made.values():
        for reason, count in entry["dropped"]["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    assert reasons == {"more than one label": 1, "cell has two places in the index": 1}
    assert sum(e["records"] for e in before.values()) - sum(e["records"] for e in made.values()) == 2 * 23
    cells = {r["cell"] for s in ("train", "test") for r in lines(tmp_path / "out" / f"medical_cl_cell_{s}.jsonl")}
    assert cells == {*labels} - {one, other}


def test_cell_settings_that_name_nothing_or_one_thing_twice(tmp_path, raw):
    names = tmp_path / "names.csv"
    names.write_text("label,name\n" + "".join(f"{n},name {n}\n" for n in [*range(10), 3]))
    with pytest.raises(DataError, match=r"(?s)names no channel.*does not name the ten classes"):
        go(raw, tmp_path / "out", "cell", settings={"cell.channels": ",", "cell.names": str(names)})


def test_cell_split_depends_on_the_seed_and_takes_a_tenth_of_each_class(tmp_path):
    gates = [f"population_{place}_selection_gated" for place in range(10)]
    rows = [[number, *(place == number % 10 for place in range(10))] for number in range(0, 4000, 2)]
    miniature._write_csv(tmp_path / "BSCCM_surface_markers.csv", ("global_index", *gates), rows)
    miniature._write_csv(tmp_path / "BSCCM_index.csv", ("global_index", "data_path"), [(row[0], "x") for row in rows])

    def cells(split, seed):
        units = cell.Cells(Context(tmp_path, seed)).units(split)
        return [value[:2] for unit in units for kind, value in unit.payload if kind == "cell"]

    test, train = cells("test", 0), cells("train", 0)
    assert cells("test", 0) == test
    assert set(cells("test", 1)) != set(test)
    assert not set(test) & set(train)
    assert len(test) + len(train) == len(rows)
    assert {label: sum(found == label for _, found in test) for label in range(0, 10, 2)} == dict.fromkeys(
        range(0, 10, 2), 40
    )


def test_cell_oddities(tmp_path, raw):
    """Labels without index row, two labels, empty gates, missing and damaged and blank pixels."""
    import zarr

    shutil.copytree(raw / "cell", tmp_path / "raw")
    path = tmp_path / "raw" / "BSCCM_surface_markers.csv"
    rows = list(csv.reader(path.open()))
    lymphocytes = [row for row in rows[1:] if row[2] == "True"]
    lymphocytes[0][3] = "True"
    lymphocytes[1][2:5] = ["", "nan", "False"]
    extra = list(lymphocytes[2])
    extra[0] = "999999"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([*rows, extra])
    folder = "batch_0/all/slide_replicate_0/led_array"
    group = zarr.open_group(str(tmp_path / "raw" / "BSCCM_images.zarr"), mode="r+")
    others = [row[0] for row in rows[1:] if row[5] == "True"]
    del group[f"{folder}/cell_{others[0]}"]
    group[f"{folder}/cell_{others[1]}"][...] = 7
    chunk = tmp_path / "raw" / "BSCCM_images.zarr" / folder / f"cell_{others[2]}" / "0.0.0"
    chunk.write_bytes(b"\0" * 9)
    out = tmp_path / "out"
    made = go(tmp_path / "raw", out, "cell", settings={"cell.channels": "Brightfield, DPC_Left,Brightfield"})
    drops = [drop for path in sorted((out / "dropped").iterdir()) for drop in lines(path)]
    found = {(d["id"].split("-")[1].lstrip("0"), d["reason"]) for d in drops}
    assert (lymphocytes[0][0], "more than one label") in found
    assert (lymphocytes[1][0], "label is missing") in found
    assert ("999999", "cell is not in the index") in found
    assert (others[0], "picture is missing") in found
    assert (others[1], "picture is blank") in found
    assert (others[2], "picture cannot be decoded") in found
    assert sum(entry["dropped"]["count"] for entry in made.values()) == 7  # the blank cell has two channels


def test_cell_problems_before_the_work(tmp_path, raw):
    names = tmp_path / "names.csv"
    names.write_text("label,name\n0,lymphocyte\n")
    with pytest.raises(DataError) as error:
        go(raw, tmp_path / "out", "cell", settings={"cell.channels": "Red", "cell.names": str(names)})
    assert "names Red" in str(error.value)
    assert "does not name the ten classes" in str(error.value)
    names.write_text("label,name\n" + "".join(f"{i},class {i}\n" for i in range(10)))
    go(raw, tmp_path / "out", "cell", settings={"cell.channels": "LED119", "cell.names": str(names)}, limit=30)
    assert all(
        name.startswith("class ")
        for r in lines(tmp_path / "out" / "medical_cl_cell_train.jsonl")
        for name in r["options"]
    )
    shutil.copytree(raw / "cell", tmp_path / "raw")
    path = tmp_path / "raw" / "BSCCM_surface_markers.csv"
    path.write_text(path.read_text().replace("population_9_selection_gated", "other"))
    with pytest.raises(DataError, match="9 columns"):
        go(tmp_path / "raw", tmp_path / "out2", "cell")


def test_stretch():
    values = np.full((10, 10), 1000.0)
    values[0] = np.arange(10) * 400
    grey = stretch(values)
    assert grey.dtype == np.uint8
    assert grey.max() == 255
    assert stretch(np.zeros((4, 4))) is None
    assert stretch(np.full((4, 4), np.nan)) is None
    spike = np.zeros((20, 20))
    spike[0, 0] = 9
    assert stretch(spike)[0, 0] == 255  # one bright pixel lies beyond both percentiles


# --- Rad


def test_rad_records(tmp_path, raw):
    go(raw, tmp_path, "rad", workers=2)
    for split, count in (("train", 48), ("validation", 16), ("test", 16)):
        records = lines(tmp_path / f"medical_cl_rad_{split}.jsonl")
        assert len(records) == count
        assert records[0]["id"].startswith(f"ROCOv2_2023_{'valid' if split == 'validation' else split}_0000")
        assert all(answer(r) == answer(r).strip() for r in records)
        assert {answer(r) for r in records} == {caption.strip() for caption in miniature._CAPTIONS}
        numbers = [int(r["id"].rsplit("_", 1)[1]) for r in records]
        assert numbers == sorted(numbers)
        assert numbers[-1] > count  # gaps in ids
        by_place = {place: r["cuis"] for place, r in enumerate(records)}
        assert by_place[0] == "C0040405;C1996865"
        assert by_place[1] == ""  # the CSV of concepts lacks this id
        assert by_place[3] == ""  # an empty list
        assert by_place[4] == "C0040405;C1996865"


def test_rad_concepts_are_joined_by_id_in_any_order(tmp_path, raw):
    """A file that somebody has sorted otherwise lost its concepts without a word."""
    shutil.copytree(raw / "rad", tmp_path / "raw")
    path = tmp_path / "raw" / "train_concepts.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    identity, cuis = rows[0].strip().split(",")
    first, second = cuis.split(";")
    rows[0] = f"{identity},{second}\n{identity},{first}\n"  # in two lines, each with a part
    path.write_text("".join([head, *reversed([line for row in rows for line in row.splitlines(keepends=True)])]))
    go(tmp_path / "raw", tmp_path / "out", "rad")
    go(raw, tmp_path / "sorted", "rad")
    name = "medical_cl_rad_train.jsonl"
    assert digests(tmp_path / "out")[name] == digests(tmp_path / "sorted")[name]


def test_rad_unpacked_folders_and_long_names(tmp_path, raw):
    shutil.copytree(raw / "rad", tmp_path / "raw")
    for split in ("train", "valid", "test"):
        with zipfile.ZipFile(tmp_path / "raw" / f"{split}_images.zip") as archive:
            for name in archive.namelist():
                if name.endswith(".jpg"):
                    target = tmp_path / "raw" / f"{split}_images" / name.split("/")[1]
                    target.parent.mkdir(exist_ok=True)
                    target.write_bytes(archive.read(name))
        (tmp_path / "raw" / f"{split}_images.zip").unlink()
    (tmp_path / "raw" / "valid_captions.csv").rename(tmp_path / "raw" / "validation_captions.csv")
    (tmp_path / "raw" / "valid_concepts.csv").unlink()
    go(tmp_path / "raw", tmp_path / "out", "rad")
    go(raw, tmp_path / "zips", "rad")
    a, b = (digests(tmp_path / name) for name in ("out", "zips"))
    assert a["medical_cl_rad_train.jsonl"] == b["medical_cl_rad_train.jsonl"]
    assert {r["cuis"] for r in lines(tmp_path / "out" / "medical_cl_rad_validation.jsonl")} == {""}


def test_rad_archives_unpacked_with_the_folder_inside(tmp_path, raw):
    shutil.copytree(raw / "rad", tmp_path / "raw")
    for archive in (tmp_path / "raw").glob("*_images.zip"):
        unpack(archive, archive.with_suffix(""))
        archive.unlink()
    assert (tmp_path / "raw" / "train_images" / "train").is_dir()
    made = go(tmp_path / "raw", tmp_path / "out", "rad")
    packed = go(raw, tmp_path / "packed", "rad")
    assert [entry["sha256"] for entry in made.values()] == [entry["sha256"] for entry in packed.values()]


def test_rad_from_parquet(tmp_path):
    miniature.make_rad_parquet(tmp_path / "raw")
    made = go(tmp_path / "raw", tmp_path / "out", "rad")
    assert [entry["records"] for entry in made.values()] == [12, 8, 8]
    records = lines(tmp_path / "out" / "medical_cl_rad_test.jsonl")
    assert records[0]["cuis"] == "C0040405;C1996865"
    assert records[3]["cuis"] == ""


def test_rad_parquet_with_concepts_as_text_and_numbers_as_ids(tmp_path):
    import pyarrow
    import pyarrow.parquet

    miniature.make_rad_parquet(tmp_path / "raw")
    (path,) = (tmp_path / "raw" / "data").glob("test-*")
    table = pyarrow.parquet.read_table(path)
    texts = pyarrow.array([";".join(cuis) for cuis in table["cui"].to_pylist()])
    table = table.drop_columns(["cui", "image_id"]).append_column("cui", texts)
    table = table.append_column("image_id", pyarrow.array(range(len(table))))
    pyarrow.parquet.write_table(table, path)
    go(tmp_path / "raw", tmp_path / "out", "rad")
    records = lines(tmp_path / "out" / "medical_cl_rad_test.jsonl")
    assert records[0]["cuis"] == "C0040405;C1996865"
    assert [r["id"] for r in records] == [str(number) for number in range(8)]


def test_rad_malformed(tmp_path, raw):
    shutil.copytree(raw / "rad", tmp_path / "raw")
    path = tmp_path / "raw" / "test_captions.csv"
    rows = list(csv.reader(path.open(encoding="utf-8")))
    rows[1][1], rows[2][1], rows[3][1], rows[4][0] = "  ", "see <image>", "NA", ""
    rows[5][0] = "../../../etc/passwd"
    rows.append(["ROCOv2_2023_test_888888", "no such figure"])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    made = go(tmp_path / "raw", tmp_path / "out", "rad")["medical_cl_rad_test"]
    assert made["dropped"]["reasons"] == {"answer is empty": 1, "id is empty": 1, "picture is missing": 2}
    assert made["escaped_placeholders"] == 1
    (tmp_path / "raw" / "train_images.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"train_images\.zip: cannot be read"):
        go(tmp_path / "raw", tmp_path / "out2", "rad")


# --- all of them


def test_names_are_those_of_the_stream():
    from cl_plugins.data.prepare.registry import converters

    stream = load_stream("medical_cl")
    kinds = converters("medical_cl")
    assert [kind.task for kind in kinds] == list(stream.task_names)
    for kind, task in zip(kinds, stream.tasks, strict=True):
        name = kind(Context(Path())).dataset
        assert task.train == (name("train"),)
        assert task.test == (name("test"),)


def test_everything_that_is_missing_in_one_message(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError) as error:
        prepare(Request("medical_cl", tmp_path / "raw", tmp_path / "out"))
    text = str(error.value)
    for word in ("Med/train.json", "annotations_01.csv", "BSCCM_index.csv", "train_captions.csv", "10.5522", "NC-SA"):
        assert word in text, word
    assert len(error.value.problems) == 4
    assert not (tmp_path / "out").exists()
