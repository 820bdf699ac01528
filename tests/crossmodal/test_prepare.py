"""Labelled samples become steps: by class in a seeded order that is recorded, by domain, split by group."""

from __future__ import annotations

import json

import pytest
import yaml

from cl_plugins.base.errors import DataError
from cl_plugins.crossmodal import demo, prepare
from cl_plugins.streams import load_stream


def write_index(folder, records):
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
        prepare.read_ave(raw)


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


def test_the_demo_records_its_order(tmp_path):
    demo.write(tmp_path, seed=4, train=2, test=1)
    about = json.loads((tmp_path / "classes.json").read_text())
    assert about["order"] == demo.class_order(4) != list(demo.THINGS)
    assert {r["label"] for r in lines(tmp_path, "step1_train")} == set(about["order"][:2])
    assert json.loads((tmp_path / "dataset_info.json").read_text()).keys() == {
        f"step{i}_{split}" for i in range(1, 6) for split in ("train", "test")
    }
