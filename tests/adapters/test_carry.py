"""The carry on disk."""

from __future__ import annotations

import json
import os

import pytest
import torch

from cl_plugins.base.errors import RunStateError
from cl_plugins.base.files import sha256
from cl_plugins.contract.carry import Carry, CarryWriter, carry_directory, read_tensors
from cl_plugins.records.carry import CarryRecord
from cl_plugins.records.record import checksum


@pytest.fixture
def carry(tmp_path):
    folder = tmp_path / "carry"
    folder.mkdir()
    writer = CarryWriter(folder, {"k": 1})
    writer.write("own.safetensors", {"t": torch.arange(4.0)})
    source = tmp_path / "update.safetensors"
    source.write_bytes((folder / "own.safetensors").read_bytes())
    writer.link(source, "updates/01_a.safetensors")
    assert writer.file_names() == ["own.safetensors", "updates/01_a.safetensors"]
    files = {n: {"sha256": sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in writer.file_names()}
    record = {
        "method": "m",
        "stream": "s",
        "tasks": ["a"],
        "base": {"sha256": "x"},
        "meta": writer.meta,
        "files": files,
    }
    CarryRecord.write(folder / "carry.json", record)
    return folder


def rewritten(carry, **changes):
    """The carry with other content and a valid checksum, as somebody else could have made it."""
    record = json.loads((carry / "carry.json").read_text()) | changes
    record["checksum"] = checksum(record)
    (carry / "carry.json").write_text(json.dumps(record))
    return carry


def test_reading_it_back(carry):
    found = Carry.open(carry)
    found.verify()
    assert (found.method, found.tasks, found.meta) == ("m", ("a",), {"k": 1})
    assert torch.equal(found.load("updates/01_a.safetensors")["t"], torch.arange(4.0))


def test_no_carry(tmp_path):
    with pytest.raises(RunStateError, match="holds no carry"):
        Carry.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_carry_json(carry, text):
    (carry / "carry.json").write_text(text)
    with pytest.raises(RunStateError, match=r"carry\.json"):
        Carry.open(carry)


def test_every_damaged_file_is_named(carry):
    (carry / "own.safetensors").unlink()
    data = bytearray((carry / "updates" / "01_a.safetensors").read_bytes())
    data[-1] ^= 1
    (carry / "updates" / "01_a.safetensors").unlink()  # a hard link: the source must stay whole
    (carry / "updates" / "01_a.safetensors").write_bytes(data)
    with pytest.raises(RunStateError) as caught:
        Carry.open(carry).verify()
    assert [p.where.rsplit("carry/", 1)[1] for p in caught.value.problems] == [
        "own.safetensors",
        "updates/01_a.safetensors",
    ]


def test_tensors_that_cannot_be_read(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x08\0\0\0")
    for name in ("x.safetensors", "none.safetensors"):
        with pytest.raises(RunStateError, match=name):
            read_tensors(tmp_path / name)


BAD_NAMES = [
    "../x.safetensors", "/tmp/x.safetensors", "a/../x.safetensors", "a/b/c.safetensors", "carry.json", ".x.safetensors", "x.pt",
    "replay/x.py", "replay/media/../../x.png", "replay/media/x.png", "replay/../x.safetensors", "a\\b.safetensors", "", "x.safetensors\n",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_out_or_has_another_form_is_refused(carry, name, tmp_path):
    entry = {"sha256": "0" * 64, "bytes": 1}
    with pytest.raises(RunStateError, match=r"carry\.json: 'files"):
        Carry.open(rewritten(carry, files={name: entry}))
    with pytest.raises(RunStateError, match="is not a valid name for a file of a carry"):
        CarryWriter(tmp_path / "new").link(carry / "own.safetensors", name)
    with pytest.raises(RunStateError, match="is not a valid name for a file of a carry"):
        CarryWriter(tmp_path / "new").write(name, {})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tasks": []}, "'tasks' is"),
        ({"tasks": ["../a"]}, "'tasks[0]' is"),
        ({"tasks": ["a", "a"]}, "'tasks' lists a task twice"),
        ({"tasks": "a"}, "'tasks' is"),
        ({"meta": {"updates": [{"file": "../x.safetensors", "task": "a", "meta": {}}]}}, "'meta.updates[0].file' is"),
        ({"meta": {"updates": [{"file": None, "task": "a"}]}}, "'meta.updates[0].file' is"),
        ({"meta": {"updates": [{"file": "own.safetensors", "task": "../a"}]}}, "'meta.updates[0].task' is"),
        ({"meta": {"positions": ["/etc/x.safetensors"]}}, "'meta.positions[0]' is"),
        ({"files": {"own.safetensors": {"sha256": "x", "bytes": 1}}}, "'files.own.safetensors.sha256' is"),
        ({"files": {"own.safetensors": {"sha256": "0" * 64}}}, "'files.own.safetensors.bytes' is missing"),
        ({"files": []}, "'files' is"),
        ({"deletions": [{"key": "x", "samples": {}}]}, "'deletions[0].key' is"),
        ({"deletions": [{"key": "replay-delete:0", "samples": {}, "step": "x"}]}, "'deletions[0].step' is not a known"),
        ({"odd": 1}, "'odd' is not a known field"),
        ({"format": True}, "format is True"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(carry, changes, field):
    with pytest.raises(RunStateError) as caught:
        Carry.open(rewritten(carry, **changes))
    assert f"{carry / 'carry.json'}: {field}" in str(caught.value)


def test_an_edit_by_hand_is_found(carry):
    text = (carry / "carry.json").read_text()
    (carry / "carry.json").write_text(text.replace('"k": 1', '"k": 2'))
    with pytest.raises(RunStateError, match="its checksum differs"):
        Carry.open(carry)


def test_an_empty_table_verifies_nothing_and_is_refused(carry):
    with pytest.raises(RunStateError, match=r"is not named in carry\.json"):
        Carry.open(rewritten(carry, files={})).verify()


def test_what_is_not_in_the_table_is_not_read(carry):
    found = Carry.open(rewritten(carry, files={}))
    with pytest.raises(RunStateError, match=r"names no file 'own\.safetensors'"):
        found.load("own.safetensors")


def test_a_file_is_compared_with_its_hash_before_it_is_read(carry):
    found = Carry.open(carry)
    data = bytearray((carry / "own.safetensors").read_bytes())
    data[-1] ^= 1
    (carry / "own.safetensors").write_bytes(data)
    with pytest.raises(RunStateError, match="differs from its hash"):
        found.load("own.safetensors")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "folder link", "extra link"])
def test_links_pipes_and_folders_are_refused_and_not_opened(carry, tmp_path, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    name = carry / "own.safetensors"
    (outside / "x").write_bytes(name.read_bytes())
    if kind == "folder link":
        (carry / "updates").rename(outside / "updates")
        (carry / "updates").symlink_to(outside / "updates")
    elif kind == "extra link":
        (carry / "more").symlink_to("/dev/zero")
    else:
        name.unlink()
        if kind == "link":
            name.symlink_to(outside / "x")
        elif kind == "pipe":
            os.mkfifo(name)
        else:
            name.mkdir()
    found = Carry.open(carry)
    with pytest.raises(RunStateError, match=r"symbolic link|regular file"):
        found.verify()
    if kind == "folder link":
        with pytest.raises(RunStateError, match="symbolic link"):
            found.load("updates/01_a.safetensors")
    elif kind != "extra link":
        with pytest.raises(RunStateError, match=r"symbolic link|regular file"):
            found.load("own.safetensors")


def test_a_carry_that_is_a_link_inside_a_run_is_refused(carry, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "carry").symlink_to(carry)
    with pytest.raises(RunStateError, match="symbolic link"):
        carry_directory(tmp_path / "run")
    assert carry_directory(carry.parent) == carry
    assert carry_directory(carry) == carry


def test_the_earlier_format_is_read(carry):
    record = json.loads((carry / "carry.json").read_text()) | {"format": 1}
    del record["checksum"]
    (carry / "carry.json").write_text(json.dumps(record))
    Carry.open(carry).verify()


def test_an_entry_that_the_method_looks_for_in_vain_is_an_error_of_the_file(carry):
    meta = Carry.open(rewritten(carry, meta={"a": {"b": 1}, "c": [{"d": None}]})).meta
    assert meta == {"a": {"b": 1}, "c": [{"d": None}]}
    for look in (lambda: meta["updates"], lambda: meta["a"]["x"], lambda: meta["c"][0]["e"]):
        with pytest.raises(RunStateError, match=r"carry\.json: 'meta' has no"):
            look()


@pytest.mark.parametrize("change", [{"rank": 0}, {"rank": "8"}, {"scaling": None}, {"alpha": [1]}, {"targets": {}}])
def test_what_is_said_of_a_low_rank_update_has_its_types(carry, change):
    with pytest.raises(RunStateError, match=rf"'meta\.adapter\.{next(iter(change))}"):
        Carry.open(rewritten(carry, meta={"adapter": {"rank": 8, "scaling": 2, **change}}))
