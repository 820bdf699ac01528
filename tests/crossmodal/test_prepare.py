"""Labelled samples become steps: by class in a seeded order that is recorded, by domain, split by group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from cl_plugins.base.errors import DataError
from cl_plugins.crossmodal import demo, prepare, sources
from cl_plugins.streams import load_stream


def write_index(folder, records):
    records = list(records)
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        (folder / record["picture"]).touch()
    (folder / "index.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder / "index.jsonl"


def samples(classes="abcde", groups=20):
    for number, label in enumerate(classes):
        for group in range(groups):
            name = f"{label}_{group}"
            yield {
                "id": name,
                "label": label,
                "picture": f"{name}.png",
                "words": "a text",
                "group": f"person{group}",
                "domain": ("x", "y")[number % 2],
            }


def lines(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_class_incremental_steps(tmp_path):
    index = write_index(tmp_path / "raw", samples())
    for out in ("one", "two"):
        args = [str(index), str(tmp_path / out), "--classes-per-step", "2", "--seed", "3"]
        assert prepare.main(args) == 0
    one = tmp_path / "one"
    stream = yaml.safe_load((one / "stream.yaml").read_text())
    again = yaml.safe_load((tmp_path / "two/stream.yaml").read_text())
    assert stream["tasks"] == again["tasks"]
    assert load_stream(str(one / "stream.yaml")).task_names == ("step1", "step2", "step3")
    classes = [task["overrides"]["labels"] for task in stream["tasks"]]
    assert [len(names) for names in classes] == [2, 2, 1]
    assert sorted(name for names in classes for name in names) == list("abcde")
    assert "seed 3" in stream["notes"][0]
    people = {}
    for number, names in enumerate(classes, start=1):
        for split in ("train", "test"):
            found = lines(one, f"step{number}_{split}")
            assert {record["label"] for record in found} == set(names)
            assert all((one / record["picture"]).is_file() and record["words"] == "a text" for record in found)
            people.setdefault(split, set()).update(record["id"].partition("_")[2] for record in found)
    assert not people["train"] & people["test"]
    assert len(people["train"] | people["test"]) == 20


def test_domain_incremental_steps(tmp_path):
    index = write_index(tmp_path / "raw", samples())
    assert prepare.main([str(index), str(tmp_path / "out"), "--domains", "y", "x"]) == 0
    stream = yaml.safe_load((tmp_path / "out/stream.yaml").read_text())
    assert [task["name"] for task in stream["tasks"]] == ["y", "x"]
    assert [task["overrides"]["labels"] for task in stream["tasks"]] == [list("abcde")] * 2
    assert {r["label"] for r in lines(tmp_path / "out", "y_train")} == {"b", "d"}


def test_ave(tmp_path):
    raw = tmp_path / "AVE_Dataset"
    (raw / "AVE").mkdir(parents=True)
    parts = {
        "trainSet": [("Bark", "v1"), ("Bark", "v2"), ("Church bell", "v3")],
        "testSet": [("Bark", "v4"), ("Church bell", "v5")],
    }
    for name, entries in parts.items():
        (raw / f"{name}.txt").write_text("".join(f"{label}&{video}&good&0&10\n" for label, video in entries))
        for _, video in entries:
            (raw / f"AVE/{video}.mp4").touch()
    assert prepare.main([str(raw), str(tmp_path / "out"), "--ave", "--classes-per-step", "2"]) == 0
    found = lines(tmp_path / "out", "step1_train")
    assert [r["id"] for r in found] == ["v1", "v2", "v3"]
    assert found[0]["picture"] == found[0]["sound"] == "../AVE_Dataset/AVE/v1.mp4"
    assert [r["id"] for r in lines(tmp_path / "out", "step1_test")] == ["v4", "v5"]
    (raw / "AVE/v5.mp4").unlink()
    with pytest.raises(DataError, match=r"v5\.mp4: is missing"):
        sources.read_ave(raw)


def test_events_that_ave_names_twice_are_counted(tmp_path):
    raw = tmp_path / "AVE_Dataset"
    (raw / "AVE").mkdir(parents=True)
    parts = {
        "trainSet": [("Bark", "v1"), ("Violin, fiddle", "v1"), ("Violin, fiddle", "v2"), ("Bark", "v1")],
        "testSet": [("Bark", "v3"), ("Violin, fiddle", "v4"), ("Violin, fiddle", "v2")],
    }
    for name, entries in parts.items():
        (raw / f"{name}.txt").write_text("".join(f"{label}&{video}&good&0&10\n" for label, video in entries))
        for _, video in entries:
            (raw / f"AVE/{video}.mp4").touch()
    assert prepare.main([str(raw), str(tmp_path / "out"), "--ave", "--classes-per-step", "2"]) == 0
    notes = yaml.safe_load((tmp_path / "out/stream.yaml").read_text())["notes"]
    what = "3 lines are left out because their video occurred before: 1 with another class, 1 in another list."
    assert what in notes
    assert '"Violin, fiddle"' in notes[0]
    assert [r["id"] for r in lines(tmp_path / "out", "step1_train")] == ["v1", "v2"]
    assert [r["id"] for r in lines(tmp_path / "out", "step1_test")] == ["v3", "v4"]


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", sources.protocols())
def test_a_protocol_says_what_it_assumes(name, capsys):
    about = sources.protocol(name)
    assert (about.classes_per_step is None) != (about.domains is None)
    assert prepare.main(["--show", name]) == 0
    assert "ASSUMPTION" in capsys.readouterr().out


def uestc(folder, classes=8, clips=(3, 2), values=None):
    """Files in the layout that three public readers of UESTC-MMEA-CL agree on."""
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "test"), clips, strict=True):
        lines = []
        for number in range(1, classes + 1):
            for i in range(count):
                kind, clip = f"{number}_do_{number}", f"{split}_{i}"
                lines.append(f"yourdataset_path/data/{kind}/{clip} 0 250 {number - 1}\n")
                put(folder / f"video/{kind}/{clip}.mp4")
                raw = rng.integers(-9000, 9000, (40, 6)) if values is None else values
                put(folder / f"sensor/{kind}/{clip}.csv", "".join(",".join(map(str, row)) + "\n" for row in raw))
        put(folder / f"{split}.txt", "".join(lines))
    put(folder / "val.txt", "yourdataset_path/data/1_do_1/gone 0 250 0\n")


def test_uestc_mmea_cl(tmp_path):
    uestc(tmp_path / "raw")
    words = ["--protocol", "uestc_mmea_cl", str(tmp_path / "raw"), str(tmp_path / "out"), "--seed", "1"]
    assert prepare.main(words) == 0
    stream = yaml.safe_load((tmp_path / "out/stream.yaml").read_text())
    assert load_stream(str(tmp_path / "out/stream.yaml")).name == "uestc_mmea_cl"
    assert [len(task["overrides"]["labels"]) for task in stream["tasks"]] == [4, 4]
    assert "seed 1" in stream["notes"][0]
    assert "8 of the 32 classes are here." in stream["notes"]
    assert any("not by participant" in note for note in stream["notes"])
    assert all("authors of UESTC" in task["source"] and task["licence"] for task in stream["tasks"])
    found = lines(tmp_path / "out", "step1_train")
    assert len(found) == 12
    assert {record["label"] for record in found} == set(stream["tasks"][0]["overrides"]["labels"])
    for record in found:
        assert record.keys() == {"id", "label", "picture", "acceleration", "gyroscope"}
        assert all((tmp_path / "out" / record[key]).is_file() for key in ("picture", "acceleration", "gyroscope"))
        assert np.load(tmp_path / "out" / record["gyroscope"]).shape == (40, 3)
    assert len(lines(tmp_path / "out", "step2_test")) == 8


def test_all_of_uestc_mmea_cl_has_eight_steps(tmp_path):
    uestc(tmp_path / "raw", classes=32, clips=(1, 1), values=[[0] * 6] * 3)
    assert prepare.main(["--protocol", "uestc_mmea_cl", str(tmp_path / "raw"), str(tmp_path / "out")]) == 0
    stream = yaml.safe_load((tmp_path / "out/stream.yaml").read_text())
    assert len(stream["tasks"]) == 8
    assert not any("classes are here" in note for note in stream["notes"])


def test_sensor_data_have_units_and_no_outliers_and_no_drift():
    raw = np.tile([16384, 0, -8192, 164, 328, 0], (9, 1)).astype(np.float32)
    raw[4, 0], raw[:, 5] = 1e6, 16.4 * np.arange(9)
    found = sources.sensor_signals(raw)
    assert np.allclose(found["acceleration"], [[1, 0, -0.5]] * 9)
    expected = [sorted(max(0, min(8, j)) for j in range(i - 2, i + 3))[2] for i in range(9)]  # edges are repeated
    assert np.allclose(found["gyroscope"][:, 2], np.array(expected) - np.mean(expected))
    assert np.allclose(found["gyroscope"][:, :2], 0)
    with pytest.raises(ValueError, match="six are needed"):
        sources.sensor_signals(raw[:, :5])


def test_what_is_wrong_with_uestc_mmea_cl_is_named(tmp_path, capsys):
    uestc(tmp_path / "raw", classes=2, clips=(2, 1))
    (tmp_path / "raw/video/1_do_1/train_0.mp4").unlink()
    (tmp_path / "raw/sensor/1_do_1/train_1.csv").unlink()
    put(tmp_path / "raw/sensor/2_do_2/train_0.csv", "1,2,3\n")
    with (tmp_path / "raw/test.txt").open("a") as file:
        file.write("alone\n")
    assert prepare.main(["--protocol", "uestc_mmea_cl", str(tmp_path / "raw"), str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    for part in ("train_0.mp4", "train_1.csv: is missing", "it has 3 columns", "line 3: has not the form"):
        assert part in text, part


LANGUAGES = ("EN", "DE", "ES", "PL", "KO")


def samsemo(folder, languages=LANGUAGES, mixed=True):
    """Files in the layout of the authors' card and code."""
    head = ["utterance_id", "movie_title", "language", "emotion_1_annotator_1", "aggregated_emotions", "transcript"]
    rows = ["\t".join(head)]
    for language in languages:
        for split, count in (("train", 4), ("valid", 1), ("test", 2)):
            names = [f"{language.lower()}{'same' if mixed else split}_{split[:2]}{i}" for i in range(count)]
            for i, name in enumerate(names):
                emotions = ("happiness", "['Sadness', 'anger']", "neutral;fear", "")[i % 4]
                text = "a long text " * 40 if i == 0 else f"text {i}"
                rows.append("\t".join([name, "t", language, "x", emotions, text]))
                place = folder / f"data/{language}/{name}"
                put(place / "audio.wav")
                if i == 0:
                    put(place / "scene.mp4")
                for number in (0, 2, 10):
                    put(place / f"image_{number}.jpg")
            put(folder / f"splits/{split}_split_{language}.txt", "".join(f"{name}\n" for name in names))
    put(folder / "samsemo.tsv", "\n".join(rows) + "\n")


def test_samsemo(tmp_path):
    samsemo(tmp_path / "raw")
    assert prepare.main(["--protocol", "samsemo", str(tmp_path / "raw"), str(tmp_path / "out")]) == 0
    stream = yaml.safe_load((tmp_path / "out/stream.yaml").read_text())
    assert [task.name for task in load_stream(str(tmp_path / "out/stream.yaml")).tasks] == [
        "en",
        "de",
        "es",
        "pl",
        "ko",
    ]
    assert stream["tasks"][3]["overrides"]["labels"] == ["happiness", "neutral", "sadness"]
    assert "The split is the authors'; 5 source videos have scenes in both of its parts." in stream["notes"]
    assert "5 scenes are left out because they have no aggregated emotion." in stream["notes"]
    found = lines(tmp_path / "out", "de_train")
    assert [record["label"] for record in found] == ["happiness", "sadness", "neutral"]  # one has no emotion
    assert found[0]["words"].startswith("a long text")
    assert found[0]["picture"].endswith("scene.mp4")
    assert [name.rpartition("_")[2] for name in found[1]["picture"]] == ["0.jpg", "2.jpg", "10.jpg"]
    assert all((tmp_path / "out" / record["sound"]).is_file() for record in found)
    assert len(lines(tmp_path / "out", "ko_test")) == 2


def test_samsemo_split_by_video(tmp_path):
    samsemo(tmp_path / "raw", mixed=False)
    words = [
        "--protocol",
        "samsemo",
        str(tmp_path / "raw"),
        str(tmp_path / "out"),
        "--split",
        "group",
        "--test",
        "0.5",
    ]
    # with so few videos most draws leave a language without one of the splits
    next(seed for seed in range(500) if prepare.main([*words, "--seed", str(seed)]) == 0)
    stream = yaml.safe_load((tmp_path / "out/stream.yaml").read_text())
    assert "not the authors'" in stream["notes"][-2]
    videos = {
        split: {
            r["id"].rpartition("_")[0]
            for language in LANGUAGES
            for r in lines(tmp_path / "out", f"{language.lower()}_{split}")
        }
        for split in ("train", "test")
    }
    assert not videos["train"] & videos["test"]


def test_what_is_wrong_with_samsemo_is_named(tmp_path, capsys):
    samsemo(tmp_path / "raw", languages=("EN",))
    put(tmp_path / "raw/splits/train_split_EN.txt", "ensame_tr0\nstranger_1\n")
    for path in (tmp_path / "raw/data/EN/ensame_tr0").iterdir():
        path.unlink()
    (tmp_path / "raw/splits/test_split_EN.txt").unlink()
    assert prepare.main(["--protocol", "samsemo", str(tmp_path / "raw"), str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    for part in ("stranger_1 is not in samsemo.tsv", "no sound, video or picture of ensame_tr0", "test_split_EN.txt"):
        assert part in text, part
    put(tmp_path / "raw/samsemo.tsv", "utterance_id\tlanguage\n")
    assert prepare.main(["--protocol", "samsemo", str(tmp_path / "raw"), str(tmp_path / "out")]) == 2
    assert "has no column aggregated_emotions, transcript" in capsys.readouterr().err


def test_a_group_in_both_splits_is_refused():
    records = [{"label": "a", "group": "p", "split": split} for split in ("train", "test")]
    with pytest.raises(DataError, match="group 'p': is in train and in test"):
        prepare.with_splits(records, 0.2, 0)


def test_a_broken_index_is_named(tmp_path, capsys):
    path = tmp_path / "index.jsonl"
    path.write_text('{"label": "a", "split": "dev"}\n{"split": "train"}\n')
    assert prepare.main([str(path), str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert "line 1: has the split 'dev'" in text
    assert "line 2: has no `label`" in text


def index_of(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    (folder / "index.jsonl").write_text(text, encoding="utf-8")
    return str(folder / "index.jsonl")


def plain(count=40, **fields):
    """Samples of two classes without files; a field that is a function gets the number of the sample."""
    for i in range(count):
        own = {k: v(i) if callable(v) else v for k, v in fields.items()}
        yield {"id": f"s{i}", "label": "ab"[i % 2], "words": f"text {i}", **own}


def test_samples_of_no_step_are_counted(tmp_path, caplog):
    records = list(plain(60, domain=lambda i: ("x", "y", "z", None)[i % 4]))
    with caplog.at_level("WARNING", logger="cl_plugins"):
        assert prepare.main([index_of(tmp_path, records), str(tmp_path / "out"), "--domains", "x", "y"]) == 0
    note = "Samples that are left out: 15 of domain z, 15 without a domain."
    assert note in yaml.safe_load((tmp_path / "out/stream.yaml").read_text())["notes"]
    assert note in caplog.text


def test_domains_may_be_numbers_or_contain_what_no_name_may(tmp_path):
    for name, values, tasks in (
        ("numbers", (1, 2), ["1", "2"]),
        ("marks", ("site/A", "site B"), ["site_A", "site_B"]),
    ):
        index = index_of(tmp_path / name, plain(domain=lambda i, v=values: v[i // 2 % 2]))
        assert prepare.main([index, str(tmp_path / name / "out"), "--domains", *map(str, values)]) == 0
        stream = load_stream(str(tmp_path / name / "out/stream.yaml"))
        assert list(stream.task_names) == tasks
        assert sum(len(lines(tmp_path / name / "out", f"{t}_{s}")) for t in tasks for s in ("train", "test")) == 40


@pytest.mark.parametrize("names", [["x", "x"], ["x/y", "x y"]])
def test_domains_that_would_share_a_task_are_refused(tmp_path, names, capsys):
    index = index_of(tmp_path, plain(domain=lambda i: names[i // 2 % 2]))
    assert prepare.main([index, str(tmp_path / "out"), "--domains", *names]) == 2
    assert "domain 'x" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_null_is_as_good_as_left_out(tmp_path):
    given = list(plain(200))
    for records in (
        given,
        [{**r, "group": None, "split": None} for r in given],
        [{**r, "group": r["id"], "id": None} for r in given],
    ):
        found = prepare.with_splits(prepare.read_index(Path(index_of(tmp_path, records))), 0.2, 0)
        assert [r["split"] for r in found] == [r["split"] for r in prepare.with_splits(given, 0.2, 0)]
        assert 20 < sum(r["split"] == "test" for r in found) < 60
    mixed = [{"label": "a", "group": "1", "split": "train"}, {"label": "a", "split": "test"}]
    assert prepare.with_splits(mixed, 0.2, 0)  # the second one's number is no group


def test_a_text_that_is_the_name_of_a_file_stays(tmp_path):
    for name in ("normal", "see.txt", "a.png"):
        (tmp_path / name).touch()
    records = plain(
        picture="a.png",
        words="normal",
        remark=lambda i: "see.txt" if i == 3 else f"a remark\u2028no. {i}",
    )
    assert prepare.main([index_of(tmp_path, records), str(tmp_path / "out"), "--classes-per-step", "2"]) == 0
    found = [r for split in ("train", "test") for r in lines(tmp_path / "out", f"step1_{split}")]
    assert {r["picture"] for r in found} == {"../a.png"}
    assert {r["words"] for r in found} == {"normal"}
    assert "see.txt" in {r["remark"] for r in found}
    assert len(found) == 40


def test_files_that_are_missing_are_named(tmp_path, capsys):
    (tmp_path / "a.png").touch()
    index = index_of(tmp_path, plain(picture=lambda i: "a.png" if i else "b.png"))
    assert prepare.main([index, str(tmp_path / "out")]) == 2
    assert "b.png" in capsys.readouterr().err


def test_the_demo_records_its_order(tmp_path):
    demo.write(tmp_path, seed=4, train=2, test=1)
    about = json.loads((tmp_path / "classes.json").read_text())
    assert about["order"] == demo.class_order(4) != list(demo.THINGS)
    assert {r["label"] for r in lines(tmp_path, "step1_train")} == set(about["order"][:2])
    assert json.loads((tmp_path / "dataset_info.json").read_text()).keys() == {
        f"step{i}_{split}" for i in range(1, 6) for split in ("train", "test")
    }
