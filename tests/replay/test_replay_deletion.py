"""Deleting samples: nothing of them is left, and the run goes on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import marked
import pytest
import sealed
from marked import holding, manifest, mark
from running import copy_of, go, journal
from safetensors.torch import load_file

from cl_plugins.base.errors import RunStateError
from cl_plugins.cli import main
from cl_plugins.run import deletion
from cl_plugins.run.deletion import forget, kept_samples, older_than


TASKS = ("one", "two", "three")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return marked.build(tmp_path_factory.mktemp("data") / "data", pictures=True, train=8)


def recipe(model, data, out, method="der"):
    return marked.recipe(model, data, out, method, TASKS, replay={"capacity_per_task": 3}, pictures=True)


@pytest.fixture(scope="module")
def halfway(llava, pictures, tmp_path_factory):
    """A run that was stopped when two of three tasks were consolidated."""
    out = tmp_path_factory.mktemp("halfway") / "run"
    keys = recipe(llava, pictures, out)
    keys["cl"]["stop_after"] = 4
    go(keys)
    return out


@pytest.fixture
def out(halfway, tmp_path):
    """A copy with times as they were, as the journal knows them."""
    import shutil

    return Path(shutil.copytree(halfway, tmp_path / "run", copy_function=shutil.copy2))


def traces(sample, data):
    """Bytes that stand for one sample: its id, its name in the buffer, its text, its picture."""
    number = int(sample["id"].rsplit("-")[-1])
    picture = (data / "images" / f"{sample['task']}_train_{number}.png").read_bytes()
    return [s.encode() for s in (f'"{sample["id"]}"', sample["uid"], mark(sample["task"], number))] + [picture]


def test_the_bytes_of_a_sample_are_where_they_are_looked_for(out, pictures):
    for sample in manifest(out):
        for trace in traces(sample, pictures):
            assert holding(out, trace), trace[:40]


def test_deleting_by_id(out, pictures, llava, capsys):
    samples = manifest(out)
    gone, stays = [samples[0], samples[4]], [s for i, s in enumerate(samples) if i not in (0, 4)]
    logits = load_file(out / "carry" / "replay" / "memory_logits.safetensors")
    code = main(["replay", "delete", str(out), "--id", gone[0]["id"], "--id", gone[1]["id"]])
    assert code == 0
    assert "2 samples deleted" in capsys.readouterr().out
    for sample in gone:
        for trace in traces(sample, pictures):
            assert holding(out, trace) == []
    assert manifest(out) == stays
    for sample in stays:
        assert all(holding(out, trace) for trace in traces(sample, pictures))
    left = load_file(out / "carry" / "replay" / "memory_logits.safetensors")
    assert {name: value.tolist() for name, value in left.items()} == {
        name: value.tolist() for name, value in logits.items() if name.rpartition("/")[0] in {s["uid"] for s in stays}
    }
    note = journal(out)[-1]
    assert note["step"].startswith("replay-delete:")
    assert note["details"] == {"samples": {"one": 1, "two": 1}}
    assert main(["status", str(out), "--verify"]) == 0
    go(recipe(llava, pictures, out))  # goes on, with what is left
    assert [s["task"] for s in manifest(out)] == ["one"] * 2 + ["two"] * 2 + ["three"] * 3
    assert main(["status", str(out), "--verify"]) == 0
    for sample in gone:
        for trace in traces(sample, pictures):
            assert holding(out, trace) == []


def test_a_finished_run_stays_finished(llava, pictures, out):
    go(recipe(llava, pictures, out))
    model = (out / "final" / "model.safetensors").read_bytes()
    forget(out, lambda sample: sample.task == "two", "delete")
    assert {s["task"] for s in manifest(out)} == {"one", "three"}
    before = len(journal(out))
    go(recipe(llava, pictures, out))
    assert len(journal(out)) == before
    assert (out / "final" / "model.safetensors").read_bytes() == model
    kept = (out / "carry" / "replay" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in kept] == [s["id"] for s in manifest(out)]


def test_all_samples_may_go(llava, pictures, out):
    forget(out, lambda sample: True, "delete")
    assert kept_samples(out) == []
    assert not (out / "carry" / "replay" / "media").exists()
    assert not (out / "carry" / "replay" / "memory_logits.safetensors").exists()
    go(recipe(llava, pictures, out))
    assert {s["task"] for s in manifest(out)} == {"three"}


def test_purging_by_age(out, monkeypatch, capsys):
    path = out / "carry" / "replay" / "manifest.json"
    value = json.loads(path.read_text())
    old = (datetime.now(UTC) - timedelta(days=31)).isoformat(timespec="seconds")
    for entry in value["samples"][:2]:
        entry["stored"] = old
    _write_and_rehash(out, path, value)
    assert main(["replay", "purge", str(out), "--older-than", "32d"]) == 0
    assert "No sample was deleted" in capsys.readouterr().out
    assert main(["replay", "purge", str(out), "--older-than", "30d", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in printed["deleted"]] == [e["id"] for e in value["samples"][:2]]
    assert printed["remains"][-1]["where"] == "elsewhere"
    assert manifest(out) == value["samples"][2:]
    assert main(["replay", "purge", str(out), "--older-than", "soon"]) == 2


def _write_and_rehash(out, path, value):
    """Change a file of the carry as the run itself would have written it."""
    from cl_plugins.base.files import artefact
    from cl_plugins.run.journal import Journal

    sealed.edit(path, lambda _: value)
    sealed.rehash(out / "carry")
    log = Journal(out)
    log.add("replay-delete:0", 0.0, artefact(out, out / "carry" / "carry.json"))
    log.rewrite()


@pytest.mark.parametrize(("age", "days"), [("30d", 30), ("12h", 0.5), ("4w", 28), ("1.5d", 1.5)])
def test_ages(age, days):
    now = datetime(2030, 1, 1, tzinfo=UTC)

    class At:
        def __init__(self, gap):
            self.stored = (now - timedelta(days=days + gap)).isoformat()

    assert older_than(age, now)(At(0.01))
    assert not older_than(age, now)(At(-0.01))


@pytest.mark.parametrize("stored", ["2030-01-03T00:00:00+00:00", "2999-01-01T00:00:00", "", "yesterday", None])
def test_a_date_ahead_or_none_is_older_than_any_age(stored):
    now = datetime(2030, 1, 1, tzinfo=UTC)

    class At:
        pass

    At.stored = stored
    assert older_than("0h", now)(At)
    assert older_than("30d", now)(At)


@pytest.mark.parametrize("stored", ["2030-01-01T00:00:00+00:00", "2030-01-01T06:00:00+00:00", "2030-01-01T00:00:00"])
def test_clocks_may_differ_by_hours(stored):
    now = datetime(2030, 1, 1, tzinfo=UTC)

    class At:
        pass

    At.stored = stored
    assert older_than("0h", now)(At)
    assert not older_than("1h", now)(At)


@pytest.mark.parametrize("age", ["", "d", "30", "30y", "-3d", "1e3d", "nand", "9" * 400 + "d"])
def test_what_is_not_an_age(age):
    with pytest.raises(ValueError, match=r"is not an age|longer than any age"):
        older_than(age)


def test_a_picture_that_another_sample_needs_stays(llava, tmp_path):
    data = marked.build(tmp_path / "data", ("one",), pictures=True, shared_picture=True)
    out = tmp_path / "run"
    go(marked.recipe(llava, data, out, "seqlora", ("one",), replay={"capacity_per_task": 3}, pictures=True))
    media = sorted((out / "carry" / "replay" / "media").iterdir())
    assert len(media) == 1
    ids = [s["id"] for s in manifest(out)]
    assert main(["replay", "delete", str(out), "--id", ids[0], "--task", "one"]) == 0
    assert media[0].exists()
    assert main(["replay", "delete", str(out), "--id", ids[1], "--id", ids[2]]) == 0
    assert not media[0].exists()


def test_an_unknown_id_deletes_nothing(out, capsys):
    before = (out / "carry" / "carry.json").read_bytes()
    known = manifest(out)[0]
    assert main(["replay", "delete", str(out), "--id", known["id"], "--id", "nobody"]) == 2
    assert main(["replay", "delete", str(out), "--id", known["id"], "--task", "two"]) == 2
    assert "has no sample" in capsys.readouterr().err
    assert (out / "carry" / "carry.json").read_bytes() == before


@pytest.mark.parametrize(("name", "hint"), [("0005", True), ("0000", True), ("0006", False), ("a05", False)])
def test_an_id_that_a_table_gave_without_its_zeros_is_named(out, capsys, monkeypatch, name, hint):
    samples = [SimpleNamespace(id=number, task="one") for number in ("5", "0")]
    monkeypatch.setattr("cl_plugins.run.deletion.kept_samples", lambda run: samples)
    before = (out / "carry" / "carry.json").read_bytes()
    assert main(["replay", "delete", str(out), "--id", name]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"the buffer has no sample {name!r}" in said
    assert ("are read as numbers, without zeros in front" in said) is hint
    assert (out / "carry" / "carry.json").read_bytes() == before


def test_refused_while_someone_works_on_the_run(out):
    from cl_plugins.base.lock import RunLock

    with RunLock(out), pytest.raises(RunStateError, match="is in use by process"):
        forget(out, lambda sample: True, "delete")
    assert len(manifest(out)) == 6


def test_refused_between_training_and_consolidation(llava, pictures, out):
    keys = recipe(llava, pictures, out)
    keys["cl"]["stop_after"] = 1
    go(keys)
    with pytest.raises(RunStateError, match=r"task three were in the buffer.*stop_after=1"):
        forget(out, lambda sample: True, "delete")
    go(keys)  # one more step
    assert len(forget(out, lambda sample: True, "delete")) == 9
    assert not list(out.glob("tasks/*/replay.json"))


def test_not_a_run(tmp_path):
    for call in (lambda: kept_samples(tmp_path), lambda: forget(tmp_path, lambda sample: True, "delete")):
        with pytest.raises(RunStateError, match="not the directory of a run"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["before", "swapped"])
def test_killed_while_deleting(moment, llava, pictures, out, tmp_path, monkeypatch):
    """Before the carry is renamed nothing has happened; after it the journal is mended by whoever comes next."""

    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    first = manifest(out)[0]
    with monkeypatch.context() as patch:
        if moment == "before":
            patch.setattr(deletion.CarryRecord, "write", die)
        else:
            patch.setattr(deletion.Journal, "rewrite", die)
        with pytest.raises(Killed):
            forget(out, lambda sample: sample.id == first["id"], "delete")
    assert len(manifest(out)) == (6 if moment == "before" else 5)
    again = copy_of(out, tmp_path / "again")
    assert len(forget(again, lambda sample: sample.id == first["id"], "delete")) == (1 if moment == "before" else 0)
    assert main(["status", str(again), "--verify"]) == 0
    go(recipe(llava, pictures, out))
    assert main(["status", str(out), "--verify"]) == 0
    assert (holding(out, first["id"].encode() + b'"') == []) == (moment == "swapped")


def test_every_place_where_a_sample_can_still_be_is_named(out, pictures, tmp_path, monkeypatch, capsys):
    """Caches, predictions and directories moved aside are looked into; nothing of them is touched."""
    import shutil

    from datasets import load_dataset

    first, other = manifest(out)[0], manifest(out)[1]
    cache = tmp_path / "cache"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    load_dataset("json", data_files=[str(pictures / "one_train.json")], cache_dir=str(cache))
    load_dataset("json", data_files=[str(pictures / "two_train.json")], cache_dir=str(cache))
    (out / "predictions" / "after_one").mkdir(parents=True)
    line = {"id": "x", "prompt": "p", "prediction": "", "reference": "A", "score": 0.0}
    item = json.dumps(line) + "\n" + json.dumps({**line, "id": first["id"]}) + "\n"
    (out / "predictions" / "after_one" / "one.jsonl").write_text(item)
    aside = Path(shutil.copytree(out, out.with_name("run.before-2030")))
    shutil.copytree(out, out.with_name("unrelated"))
    checkpoint = out / "tasks" / "03_three" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    capsys.readouterr()
    assert main(["replay", "delete", str(out), "--id", first["id"], "--json"]) == 0
    places = {place["where"]: place for place in json.loads(capsys.readouterr().out)["remains"]}
    named = [where for where in places if where.startswith(str(cache))]
    assert len(named) == 1
    assert [path for path in Path(named[0]).glob("*.arrow") if mark("one", 0)[:3].encode() in path.read_bytes()]
    assert {str(aside), str(checkpoint), str(out / "predictions" / "after_one" / "one.jsonl")} <= set(places)
    assert f"one_train in {pictures}" in places
    assert "elsewhere" in places
    assert str(out.with_name("unrelated")) not in places
    assert holding(aside, f'"{first["id"]}"'.encode())
    assert main(["replay", "delete", str(out), "--id", other["id"]]) == 0
    text = capsys.readouterr().out
    assert "Where they can still be" in text
    assert "after_one" not in text


def test_replayed_samples_are_in_no_cache(llava, pictures, tmp_path, monkeypatch):
    """What the host loads it caches; the buffer does not go that way, so that deleting it reaches all copies."""
    cache = tmp_path / "cache"
    keys = marked.recipe(
        llava, pictures, tmp_path / "run", "seqlora", TASKS, replay={"capacity_per_task": 3}, pictures=True
    )
    go({**keys, "cl": {**keys["cl"], "stop_after": 2}})
    go({**keys, "cache_dir": str(cache)})
    written = [path for path in cache.rglob("*") if path.is_file()]
    assert [path for path in written if mark("two", 0)[:3].encode() in path.read_bytes()]
    for sample in manifest(tmp_path / "run"):
        if sample["task"] == "one":
            word = mark("one", int(sample["id"].rsplit("-")[-1])).encode()
            assert [path for path in written if word in path.read_bytes()] == []


def test_listing(out, capsys):
    assert main(["replay", "list", str(out)]) == 0
    text = capsys.readouterr().out
    for sample in manifest(out):
        assert sample["id"] in text
    assert "terms of one" in text
    assert "6 samples in the buffer" in text
    assert main(["replay", "list", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == manifest(out)


def test_a_buffer_that_the_carry_does_not_name_is_not_called_empty(out, tmp_path, capsys):
    from cl_plugins.records.carry import CarryRecord

    copy = copy_of(out, tmp_path / "copied")
    path = copy / "carry" / "carry.json"
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    CarryRecord.write(path, {**content, "files": {}})
    assert main(["replay", "list", str(copy)]) != 0
    assert "no training sample" not in capsys.readouterr().out


def test_a_run_without_replay_has_nothing_to_list(llava, pictures, tmp_path, capsys):
    out = tmp_path / "plain"
    go(marked.recipe(llava, pictures, out, "seqlora", ("one",), pictures=True))
    assert main(["replay", "list", str(out)]) == 0
    assert "has no training sample" in capsys.readouterr().out
    assert main(["replay", "purge", str(out), "--older-than", "1h"]) == 0
    for i in range(8):
        assert holding(out, mark("one", i).encode()) == []
        assert holding(out, (pictures / "images" / f"one_train_{i}.png").read_bytes()) == []
