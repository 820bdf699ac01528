"""A buffer that comes from somebody else: only what it is known to hold is read, and nothing of it is obeyed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import marked
import pytest
import sealed
from marked import manifest
from running import go

from cl_plugins.base.errors import DataError, RunStateError
from cl_plugins.replay import media, samples


CHAT = {
    "id": "1",
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    "system": "",
    "tools": "",
    "images": ["media/" + "0" * 32 + ".png"],
    "videos": [],
    "audios": [],
}


def test_the_forms_that_are_written_are_read():
    assert samples.problem_of(CHAT) is None
    assert samples.problem_of({**CHAT, "videos": [["media/" + "a" * 32 + ".jpg", "media/" + "b" * 32]]}) is None
    assert samples.problem_of({"row": {"input_ids": [1]}, "images": []}) is None
    assert samples.problem_of({"row": {"input_ids": [1]}, "images": [], "labels": 1}) is None


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "media/../../../secret.png",
        "../media/" + "0" * 32 + ".png",
        "media/" + "0" * 32 + ".png/../x",
        "media/" + "0" * 31 + ".png",
        "media/" + "0" * 32 + ".pkl",
        "media/" + "0" * 32 + ".py",
        "media/" + "0" * 32 + ".png\n",
        "MEDIA/" + "0" * 32 + ".png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "concat:media/a|media/b",
        "",
        7,
        None,
        {"path": "/etc/passwd"},
    ],
)
def test_a_medium_is_a_name_in_the_buffer(name, tmp_path):
    for kind in ("images", "videos", "audios"):
        assert "as a medium" in samples.problem_of({**CHAT, kind: [name]})
    assert "as a medium" in samples.problem_of({**CHAT, "videos": [[name]]})
    assert "as a medium" in samples.problem_of({"row": {}, "images": [name]})
    with pytest.raises(RunStateError):
        samples.medium(tmp_path, name)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        "text",
        {},
        {**CHAT, "messages": []},
        {**CHAT, "messages": CHAT["messages"][:1]},
        {**CHAT, "messages": [{"role": "system", "content": "q"}, CHAT["messages"][1]]},
        {**CHAT, "messages": [{"role": "user", "content": 1}, CHAT["messages"][1]]},
        {**CHAT, "messages": [{"role": "user", "content": "q", "x": 1}, CHAT["messages"][1]]},
        {**CHAT, "messages": "text"},
        {**CHAT, "system": ["x"]},
        {**CHAT, "tools": {"x": 1}},
        {**CHAT, "script_url": "evil.py"},
        {"row": {}},
        {"row": {}, "images": [], "messages": []},
        {"row": {}, "images": [], "labels": -1},
        {"row": {}, "images": [], "labels": "1"},
        {"row": {}, "images": [], "labels": True},
        {**CHAT, "labels": 1},
    ],
)
def test_records_of_another_form_are_refused(record):
    assert samples.problem_of(record)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "missing", "linked folder"])
def test_media_are_regular_files_of_the_buffer(kind, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"x")
    name = "media/" + "0" * 32 + ".png"
    path = tmp_path / "buffer" / name
    path.parent.mkdir(parents=True)
    if kind == "link":
        path.symlink_to(secret)
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "linked folder":
        path.parent.rmdir()
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / path.name).write_bytes(b"x")
        path.parent.symlink_to(tmp_path / "real")
    with pytest.raises(RunStateError, match=r"link|folder|pipe|missing"):
        samples.medium(tmp_path / "buffer", name)
    with pytest.raises(RunStateError):
        media.take_in(name, tmp_path / "new", tmp_path / "buffer")
    assert not (tmp_path / "new" / name).exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_the_file_of_records_is_a_regular_file(kind, tmp_path):
    path = tmp_path / "samples.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        (tmp_path / "other").write_text(json.dumps(CHAT) + "\n")
        path.symlink_to(tmp_path / "other")
    with pytest.raises(RunStateError, match=r"regular file|symbolic link"):
        samples.read(path)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(CHAT) + "\n" + "[" * 100_000 + "\n")
    with pytest.raises(RunStateError, match=r"line 2: cannot be read \(it is nested too deeply"):
        samples.read(path)
    path.write_text(json.dumps(CHAT) + "\n" + '{"id": ' + "9" * 6000 + "}\n")
    with pytest.raises(RunStateError, match=r"line 2: cannot be read \(it contains a number of 6000 digits"):
        samples.read(path)


@pytest.mark.parametrize("value", ["https://example.org/x.mp4", {"path": "s3://x/y.png"}])
def test_addresses_are_not_kept(value):
    with pytest.raises(DataError, match="which the buffer cannot store"):
        media.outside(value, "task 'one', record 3")


def test_a_medium_keeps_only_a_known_suffix(tmp_path):
    (tmp_path / "picture.PNG").write_bytes(b"1")
    (tmp_path / "picture.pkl").write_bytes(b"2")
    first = media.take_in({"path": str(tmp_path / "picture.PNG")}, tmp_path / "new", None)
    second = media.take_in({"path": str(tmp_path / "picture.pkl")}, tmp_path / "new", None)
    assert first.endswith(".png")
    assert Path(second).suffix == ""
    assert samples.is_medium(first)
    assert samples.is_medium(second)


@pytest.fixture(scope="module")
def sender(llama, tmp_path_factory):
    """A run of one site, whose carry goes to another one."""
    data = marked.build(tmp_path_factory.mktemp("data") / "data", ("one", "two"))
    out = tmp_path_factory.mktemp("sender") / "run"
    keys = marked.recipe(llama, data, out, "seqlora", ("one", "two"), replay={"capacity_per_task": 3})
    keys["cl"]["only"] = "one"
    go(keys)
    return data, out


def received(sender, llama, tmp_path):
    data, out = sender
    carry = Path(shutil.copytree(out / "carry", tmp_path / "received"))
    keys = marked.recipe(llama, data, tmp_path / "run", "seqlora", ("one", "two"), replay={"capacity_per_task": 3})
    keys["cl"] |= {"only": "two", "carry_from": str(carry)}
    return carry, keys


def rehash(carry: Path) -> None:
    """As a sender would who means harm: hashes fit, and everything is listed."""
    sealed.rehash(carry)


def test_a_received_description_is_not_read(sender, llama, tmp_path):
    """Neither the script that it names, nor a data set under another name, nor its columns."""
    carry, keys = received(sender, llama, tmp_path)
    mark = tmp_path / "ran"
    script = f"open({str(mark)!r}, 'w').close()\n"
    (carry / "replay" / "evil.py").write_text(script)
    info = {"replay": {"script_url": "evil.py"}, "one_train": {"file_name": "../../../etc/passwd"}}
    (carry / "replay" / "dataset_info.json").write_text(json.dumps(info))
    rehash(carry)
    with pytest.raises(RunStateError, match=r"'files.replay/evil\.py' is"):
        go(keys)
    (carry / "replay" / "evil.py").unlink()
    rehash(carry)
    go(keys)
    assert not mark.exists()
    written = json.loads((tmp_path / "run" / "carry" / "replay" / "dataset_info.json").read_text())
    assert list(written) == ["replay"]
    assert written["replay"]["file_name"] == "samples.jsonl"
    assert [s["task"] for s in manifest(tmp_path / "run")] == ["one"] * 3 + ["two"] * 3
    assert not (tmp_path / "run" / "carry" / "replay" / "evil.py").exists()


@pytest.mark.parametrize("field", ["images", "videos"])
def test_a_received_record_cannot_name_a_file_of_the_receiver(sender, llama, tmp_path, field):
    carry, keys = received(sender, llama, tmp_path)
    path = carry / "replay" / "samples.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0][field] = ["/etc/passwd"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rehash(carry)
    with pytest.raises(RunStateError, match=r"samples.jsonl, line 1: names '/etc/passwd' as a medium"):
        go(keys)


def test_records_and_manifest_belong_together(sender, llama, tmp_path):
    carry, keys = received(sender, llama, tmp_path)
    path = carry / "replay" / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    rehash(carry)
    with pytest.raises(RunStateError, match="holds 2 records for the 3 samples"):
        go(keys)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
        b"\xef\xbb\xbf#EXTM3U\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\xc5\xd0\xd3\xc6",
        b'<?xml version="1.0"?><MPD/>',
    ],
)
def test_playlists_and_programs_are_no_media(content, tmp_path):
    """FFmpeg opens what a playlist names, whatever the playlist is called; Pillow hands PostScript to Ghostscript."""
    for suffix in (".mp4", ".png", ""):
        name = "media/" + "0" * 32 + suffix
        (tmp_path / "media").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RunStateError, match="is not a picture, video or sound"):
            samples.medium(tmp_path, name)


@pytest.mark.parametrize("value", [0, "", {}, False, "media/x"])
def test_media_that_are_no_list(value):
    assert samples.problem_of({**CHAT, "images": value}) == "has no list under 'images'."
    assert samples.problem_of({**CHAT, "images": None}) is None
