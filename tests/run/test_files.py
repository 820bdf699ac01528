"""Durable files: the old content or the new one, never a part."""

from __future__ import annotations

import errno
import json
import os

import pytest

from cl_plugins.base import files
from cl_plugins.base.errors import RunStateError


def test_files_and_directories_are_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "x.json"
    files.write_json(path, {"a": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    files.write_bytes(path, b"2")
    assert path.read_bytes() == b"2"
    folder = tmp_path / "folder"
    for text in ("one", "two"):

        def produce(target, text=text):
            target.mkdir()
            (target / text).write_text(text)

        files.write_with(folder, produce)
        assert [p.name for p in folder.iterdir()] == [text]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "folder"]


def test_what_fails_half_way_leaves_the_old_content_and_no_rubbish(tmp_path):
    path = tmp_path / "x"
    files.write_bytes(path, b"old")

    def fail(target):
        target.write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.write_with(path, fail)
    assert path.read_bytes() == b"old"

    folder = tmp_path / "folder"
    files.write_with(folder, lambda target: target.mkdir())

    def fail_in_folder(target):
        target.mkdir()
        (target / "part").write_bytes(b"1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_with(folder, fail_in_folder)
    assert not list(folder.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "x"]


def test_a_crash_between_the_two_renames_of_a_directory(tmp_path, monkeypatch):
    folder = tmp_path / "carry"

    def produce(text):
        def make(target):
            target.mkdir()
            (target / text).write_text(text)

        return make

    files.write_with(folder, produce("old"))
    rename, count = os.rename, []

    def killed(*args):
        count.append(args)
        if len(count) == 2:
            raise KeyboardInterrupt  # stands for a kill: the old one is aside, the new one not yet in place
        rename(*args)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_with(folder, produce("new"))
    monkeypatch.undo()
    assert not folder.exists()
    files.recover_directory(folder)
    assert [p.name for p in folder.iterdir()] == ["old"]


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / ".update.safetensors.12345678.tmp").write_text("x")
    (tmp_path / ".carry.12345678.tmp").mkdir()
    (tmp_path / ".carry.12345678.tmp" / "y").write_text("y")
    (tmp_path / "mine.tmp").write_text("z")
    files.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine.tmp", "tasks"]
    files.remove_leftovers(tmp_path / "nowhere")


def test_a_finished_file_and_its_record(tmp_path):
    path = tmp_path / "a" / "b"
    files.write_bytes(path, b"abc")
    record = files.artefact(tmp_path, path)["a/b"]
    assert record["bytes"] == 3
    assert record["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_in_the_place_of_a_file_and_the_reverse_are_said(tmp_path):
    (tmp_path / "matrix.json").mkdir()
    with pytest.raises(RunStateError, match=r"matrix\.json: is a folder"):
        files.write_bytes(tmp_path / "matrix.json", b"x")
    (tmp_path / "carry").write_bytes(b"x")
    with pytest.raises(RunStateError, match=r"carry: is no folder"):
        files.write_with(tmp_path / "carry", lambda folder: folder.mkdir())
    with pytest.raises(RunStateError, match=r"carry: is no folder"):
        files.write_bytes(tmp_path / "carry" / "x", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["carry", "matrix.json"]
