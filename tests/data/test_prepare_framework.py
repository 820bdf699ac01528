"""The framework of ``data prepare``: resuming, workers, merging, drops, and refusals that leave no partial output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prepare_toys import Toy, digests, lines, make_raw

from cl_plugins.base.errors import DataError, RunStateError
from cl_plugins.base.lock import RunLock
from cl_plugins.data.prepare import registry
from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.data.prepare.images import ImageRules


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(registry.CONVERTERS, "toy", {"spots": "prepare_toys:Toy"})


def go(raw: Path, out: Path, **more):
    return prepare(Request("toy", raw, out, **more))


def calls(raw: Path) -> list[str]:
    return (raw / "calls.log").read_text().splitlines()


def test_records_info_and_manifest(tmp_path):
    raw = make_raw(tmp_path / "raw")
    made = go(raw, tmp_path / "out")
    records = lines(tmp_path / "out" / "toy_spots_train.jsonl")
    assert [r["id"] for r in records] == [f"train-{i:04d}" for i in range(23)]
    assert records[3]["conversations"] == [
        {"from": "human", "value": "<image>\nwhat is 3?"},
        {"from": "gpt", "value": "thing 3"},
    ]
    assert records[3]["answer_type"] == "OPEN"
    assert records[3]["options"] == []
    stored = tmp_path / "out" / records[3]["images"][0]
    assert stored.read_bytes() == (raw / "images" / "train3.png").read_bytes()  # unchanged pictures keep their bytes
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info["toy_spots_train"]["columns"] == {"messages": "conversations", "images": "images"}
    entry = json.loads((tmp_path / "out" / "manifest.json").read_text())["datasets"]["toy_spots_train"]
    assert made["toy_spots_train"] == entry
    assert (entry["records"], entry["pictures"]["named"], entry["dropped"]) == (23, 23, {"count": 0, "reasons": {}})
    assert entry["sha256"] == digests(tmp_path / "out")["toy_spots_train.jsonl"]
    assert entry["sources"] == [{"name": "Toy", "where": "https://example.org/toy", "licence": "CC0"}]
    assert entry["raw"][0]["sha256"]
    assert entry["notes"] == ["A note."]
    assert not (tmp_path / "out" / ".prepare").exists()


def test_other_entries_of_dataset_info_stay(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    go(make_raw(tmp_path / "raw"), out)
    info = json.loads((out / "dataset_info.json").read_text())
    assert info["mine"] == {"file_name": "mine.json"}
    assert set(info) == {"mine", "toy_spots_train", "toy_spots_test"}


def test_a_foreign_entry_of_the_same_name_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text('{"toy_spots_train": {"file_name": "mine.json"}}')
    with pytest.raises(DataError, match="did not write"):
        go(make_raw(tmp_path / "raw"), out)
    assert json.loads((out / "dataset_info.json").read_text())["toy_spots_train"] == {"file_name": "mine.json"}
    go(tmp_path / "raw", out, restart=True)


def test_workers_do_not_change_the_result(tmp_path):
    raw = make_raw(tmp_path / "raw", 40)
    go(raw, tmp_path / "one", workers=1, settings={"spots.size": "3"})
    go(raw, tmp_path / "three", workers=3, settings={"spots.size": "3"})
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


_KILLED = """
import sys
sys.path.insert(0, {tests!r})
from cl_plugins.data.prepare import registry
from cl_plugins.data.prepare.engine import Request, prepare
from pathlib import Path
registry.CONVERTERS["toy"] = {{"spots": "prepare_toys:Toy"}}
prepare(Request("toy", Path({raw!r}), Path({out!r})))
"""


def test_killed_and_run_again_equals_a_run_that_was_not_killed(tmp_path):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    (raw / "die").write_text("12")  # in the third unit of five, after two of its records
    code = textwrap.dedent(_KILLED.format(tests=str(Path(__file__).parent), raw=str(raw), out=str(out)))
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "CL_PLUGINS_AUTOLOAD": "0"}, check=False)
    assert killed.returncode == -9
    assert not (out / "toy_spots_train.jsonl").exists()  # no partial file under its final name
    assert not (out / "dataset_info.json").exists()
    first = {path: path.stat().st_mtime_ns for path in (out / ".prepare" / "toy_spots_train").glob("*.jsonl")}
    assert len(first) == 2
    (raw / "die").unlink()
    (raw / "calls.log").unlink()
    go(raw, out)
    assert calls(raw)[:1] == ["train 000002"]  # the first two units were not done again
    go(raw, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")


def test_a_shard_whose_picture_was_lost_is_made_again(tmp_path):
    """A machine that fails may leave a short picture behind a finished shard."""
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    broken = json.loads((raw / "train.json").read_text())
    (raw / "train.json").write_text(json.dumps(broken)[:-1] + ", {]")
    with pytest.raises(DataError, match="not JSON"):
        go(raw, out)
    shard = out / ".prepare" / "toy_spots_train" / "0000000.jsonl"
    lost = out / lines(shard)[0]["images"][0]
    lost.write_bytes(b"")
    second = shard.with_name("0000001.jsonl")
    second.write_bytes(b"\0" * second.stat().st_size)
    stat = (raw / "train.json").stat()
    padded = json.dumps(broken) + " " * 4
    (raw / "train.json").write_text(padded[: stat.st_size].ljust(stat.st_size))
    os.utime(raw / "train.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    go(raw, out)
    assert lost.stat().st_size > 0
    assert len(lines(out / "toy_spots_train.jsonl")) == 23


def test_finished_data_sets_are_not_made_again(tmp_path):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    go(raw, out)
    before, count = digests(out), len(calls(raw))
    go(raw, out)
    assert digests(out) == before
    assert len(calls(raw)) == count
    (out / "toy_spots_test.jsonl").unlink()  # a lost file is noticed
    go(raw, out)
    assert digests(out) == before


@pytest.mark.parametrize(
    "more", [{"seed": 1}, {"limit": 3}, {"rules": ImageRules(pad_square=True)}, {"settings": {"spots.style": "fancy"}}]
)
def test_other_options_are_refused_and_restart_makes_them(tmp_path, more):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    go(raw, out)
    before = digests(out)
    with pytest.raises(DataError, match="other options") as refused:
        go(raw, out, **more)
    assert len(refused.value.problems) == 2  # both splits, at once
    assert digests(out) == before
    go(raw, out, restart=True, **more)
    go(raw, tmp_path / "fresh", **more)
    assert digests(out) == digests(tmp_path / "fresh")  # no picture of before is left


def test_a_changed_raw_file_is_noticed(tmp_path):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    go(raw, out)
    make_raw(raw, 5)
    with pytest.raises(DataError, match="other files"):
        go(raw, out)


def test_limit_takes_the_first_records_whatever_the_workers(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for out, workers in (("a", 1), ("b", 2)):
        go(raw, tmp_path / out, limit=7, workers=workers)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(lines(tmp_path / "a" / "toy_spots_train.jsonl")) == 7
    assert len(list((tmp_path / "a" / "images").rglob("*.png"))) == 7 + 4


def test_drops_are_recorded_one_by_one(tmp_path):
    record = {"question": "q", "answer": "a", "image": "train0.png"}
    bad = [
        record,
        {**record, "answer": None},
        {**record, "answer": float("nan")},
        {**record, "question": "  "},
        {**record, "image": "gone.png"},
        {**record, "image": "../../outside.png"},
        {**record, "answer": ["a", "b"]},
        {**record, "answer": "\ud800"},
        {**record, "id": "\ud800"},
        {"drop": True},
        {"conversations": [{"from": "gpt", "value": "a"}], "image": "train0.png"},
        {"conversations": "text", "image": "train0.png"},
        {"conversations": [{"from": "human", "value": "<image>q <image>"}, {"from": "gpt", "value": "a"}], "image": "train0.png"},
        {"id": "twice", **record},
        {"id": "twice", **record, "answer": "other"},
    ]  # fmt: skip
    raw = make_raw(tmp_path / "raw", train=bad)
    (tmp_path / "outside.png").write_bytes((raw / "images" / "train0.png").read_bytes())
    made = go(raw, tmp_path / "out")["toy_spots_train"]
    assert made["records"] == 2
    assert made["dropped"]["reasons"] == {
        "answer is missing": 2,
        "question is empty": 1,
        "picture is missing": 1,
        "picture cannot be read": 1,
        "answer is not text": 1,
        "answer is not valid Unicode": 1,
        "id is not valid Unicode": 1,
        "not wanted": 1,
        "not a conversation": 2,
        "<image> does not match pictures": 1,
        "id occurs twice": 1,
    }
    written = lines(tmp_path / "out" / made["dropped"]["file"])
    assert len(written) == made["dropped"]["count"] == 13
    assert {"id": "train-0009", "reason": "not wanted", "detail": "9"} in written
    assert [r["conversations"][1]["value"] for r in lines(tmp_path / "out" / "toy_spots_train.jsonl")] == ["a", "a"]


@pytest.mark.parametrize("records", [[], [{"drop": True}]])
def test_no_usable_record_is_an_error_and_the_other_split_stays(tmp_path, records):
    with pytest.raises(DataError, match="no usable record") as error:
        go(make_raw(tmp_path / "raw", train=records), tmp_path / "out")
    assert "toy_spots_train" in str(error.value)
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert set(info) == {"toy_spots_test"}


def test_all_missing_files_in_one_message_with_source_and_terms(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.CONVERTERS, "toy", {"spots": "prepare_toys:Toy", "more": "prepare_toys:Toy"})
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError) as error:
        go(tmp_path / "raw", tmp_path / "out")
    text = str(error.value)
    assert text.count("train.json") == text.count("test.json") == 2  # among the missing and in the source; said once
    assert "https://example.org/toy" in text
    assert "CC0" in text
    assert len(error.value.problems) == 2


def test_a_fault_of_a_converter_names_the_part_and_keeps_the_rest(tmp_path):
    raw = make_raw(tmp_path / "raw")
    records = json.loads((raw / "train.json").read_text())
    records[12] = {"fault": True}
    (raw / "train.json").write_text(json.dumps(records))
    for workers in (1, 2):
        with pytest.raises(DataError, match="toy_spots_train, part 000002") as error:
            go(raw, tmp_path / "out", workers=workers)
        assert "a bug in the converter" in str(error.value)
    assert len(list((tmp_path / "out" / ".prepare" / "toy_spots_train").glob("*.jsonl"))) >= 2
    assert (tmp_path / "out" / "toy_spots_test.jsonl").is_file()


def test_a_worker_that_dies_is_reported_and_the_work_goes_on_later(tmp_path):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    (raw / "die").write_text("12")
    with pytest.raises(RunStateError, match="worker process died"):
        go(raw, out, workers=2)
    (raw / "die").unlink()
    go(raw, out, workers=2)
    go(raw, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")


def test_two_processes_in_one_folder_are_refused(tmp_path):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    with RunLock(out), pytest.raises(RunStateError, match="in use by process"):
        go(raw, out)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tasks": ("nothing",)}, "no task 'nothing'"),
        ({"settings": {"spots.colour": "red"}}, "not a setting"),
        ({"settings": {"spots.style": "red"}}, "plain, fancy"),
        ({"workers": 0}, "--workers"),
        ({"limit": 0}, "--limit"),
    ],
)
def test_requests_that_cannot_be(tmp_path, more, words):
    with pytest.raises(DataError, match=words):
        go(make_raw(tmp_path / "raw"), tmp_path / "out", **more)


def test_unknown_stream_names_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'medical_cl'"):
        registry.converters("medical_ci")


def test_every_registered_converter_loads_and_names_its_stream_and_sources():
    for stream, tasks in registry.CONVERTERS.items():
        if stream == "toy":
            continue
        for task, kind in zip(tasks, registry.converters(stream), strict=True):
            assert kind.sources, (stream, task)
            assert all(source.where and source.licence and source.files for source in kind.sources)


def test_padding(tmp_path):
    from PIL import Image

    go(make_raw(tmp_path / "raw", 3), tmp_path / "out", rules=ImageRules(pad_square=True))
    record = lines(tmp_path / "out" / "toy_spots_train.jsonl")[0]
    picture = Image.open(tmp_path / "out" / record["images"][0])
    assert picture.size == (8, 8)
    assert picture.getpixel((0, 0)) == (122, 116, 104)
    assert picture.getpixel((2, 1)) == Image.open(tmp_path / "raw" / "images" / "train0.png").getpixel((2, 0))


def test_toy_is_a_converter():
    assert Toy.splits == ("train", "test")


def test_a_list_that_is_empty_for_megabytes_still_has_a_type(tmp_path, monkeypatch):
    """The host's reader takes the types of the columns from the first ten megabytes of a file."""
    from datasets import load_dataset

    from cl_plugins.data.prepare import writer

    monkeypatch.setattr(writer, "_TYPED", 1000)
    texts = [{"question": f"q {i}", "answer": "a"} for i in range(20)]
    pictured = [{"question": "what?", "answer": f"b {i}", "image": f"train{i}.png"} for i in range(3)]
    go(make_raw(tmp_path / "raw", train=[*texts, *pictured]), tmp_path / "out")
    path = tmp_path / "out" / "toy_spots_train.jsonl"
    ids = [record["id"] for record in lines(path)]
    assert ids == ["train-0020", *(f"train-{i:04d}" for i in range(20)), "train-0021", "train-0022"]
    # In pieces of 2,000 bytes, so that the last pictures come in another piece than the first.
    read = load_dataset("json", data_files=str(path), split="train", chunksize=2000, cache_dir=str(tmp_path / "cache"))
    assert len(read) == 23
    assert len(read[22]["images"]) == 1
