"""Directories as file systems give them: read-only, becoming so, without locks, copied; a run goes on or says what is wrong."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from running import copy_of, files, go, load, predictions, recipe, steps, weights

from cl_plugins.base.errors import RunStateError
from cl_plugins.cli import main


HALF = 6  # steps: the zero-shot row, all of the first task, and the training of the second


@pytest.fixture(scope="module")
def whole(llama, text_data, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    go(recipe(llama, text_data, out, max_steps=1))
    return out


@pytest.fixture(scope="module")
def half(llama, text_data, tmp_path_factory):
    """The same run, stopped in the middle."""
    out = tmp_path_factory.mktemp("half") / "run"
    go(recipe(llama, text_data, out, max_steps=1, cl={"stop_after": HALF}))
    assert steps(out)[-1] == "train:two"
    return out


def same(out: Path, whole: Path) -> bool:
    return (predictions(out), weights(out)) == (predictions(whole), weights(whole))


@pytest.fixture
def read_only(tmp_path):
    """Mounts a folder upon itself so that it can only be read, where mounting is permitted."""
    mounted = []

    def mount(folder: Path) -> None:
        for words in (("--bind", folder, folder), ("-o", "remount,ro,bind", folder)):
            found = shutil.which("mount")
            if found is None or subprocess.run([found, *map(str, words)], capture_output=True).returncode:
                pytest.skip("mounting is not permitted here")
            if words[0] == "--bind":
                mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_start_on_a_read_only_disk(read_only, llama, text_data, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    read_only(disk)
    with pytest.raises(RunStateError, match=r"cannot be written to \(Read-only file system\)"):
        go(recipe(llama, text_data, disk / "run"))


def test_a_finished_run_on_a_read_only_disk_can_be_looked_at(read_only, whole, tmp_path, capsys):
    disk = copy_of(whole, tmp_path / "disk")
    before = files(disk)
    read_only(disk)
    here = str(disk)
    assert main(["status", here, "--verify"]) == 0
    assert main(["compare", here, "--out", str(tmp_path / "compared")]) == 0
    assert main(["report", here, "--scorer", "exact_match", "--out", str(tmp_path / "scored")]) == 0
    assert main(["export", here, "--to", "adapter", "--out", str(tmp_path / "exported")]) == 0
    assert main(["evaluate", here, "--task", "one", "--out", str(tmp_path / "evaluated")]) == 0
    capsys.readouterr()
    assert main(["report", here]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in said
    assert "ead-only file system" in said
    assert str(disk)[:20] in said
    assert files(disk) == before


@pytest.mark.parametrize("name", ["update.safetensors", "journal.jsonl", "carry"])
def test_a_disk_that_becomes_read_only(name, half, whole, llama, text_data, tmp_path, monkeypatch):
    """The write fails in the middle of a step; afterwards the run goes on to the very same end."""
    from cl_plugins.base import files as durable

    keys = recipe(llama, text_data, tmp_path / "run", max_steps=1)
    if name != "update.safetensors":
        copy_of(half, tmp_path / "run")
    refused = []
    replace, opened, renamed = os.replace, os.open, os.rename

    def stop(path: object) -> None:
        if not refused and name in Path(os.fspath(path)).name and not str(path).endswith(".lock"):  # type: ignore[call-overload]
            refused.append(path)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def replacing(source, target, **more):
        stop(target)
        return replace(source, target, **more)

    def renaming(source, target, **more):
        stop(target)
        return renamed(source, target, **more)

    def opening(path, flags, *more, **options):
        if isinstance(path, str | os.PathLike) and flags & (os.O_WRONLY | os.O_RDWR) and "run" in str(path):
            stop(path) if name == "journal.jsonl" else None
        return opened(path, flags, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(durable.os, "replace", replacing)
        patched.setattr(durable.os, "rename", renaming)
        patched.setattr(durable.os, "open", opening)
        with pytest.raises(RunStateError, match="can only be read") as caught:
            go(keys)
    assert refused
    assert "run the same command again" in str(caught.value)
    go(keys)
    assert same(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_run_on_a_file_system_without_locks(number, whole, llama, text_data, tmp_path, monkeypatch):
    import fcntl

    lock = fcntl.flock

    def refuse(file, operation):
        """Other libraries lock their caches elsewhere."""
        if os.readlink(f"/proc/self/fd/{file}").startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number))
        return lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    go(recipe(llama, text_data, tmp_path / "run", max_steps=1))
    assert same(tmp_path / "run", whole)
    assert not (tmp_path / "run" / ".lock.soft").exists()


@pytest.mark.parametrize("times", ["kept", "new"])
def test_a_copied_directory_goes_on_by_itself(times, half, whole, llama, text_data, tmp_path):
    """Copied to another place, with or without its times, beside the first one, which goes on too."""
    copy = tmp_path / "copy"
    shutil.copytree(half, copy, copy_function=shutil.copy2 if times == "kept" else shutil.copy)
    go(recipe(llama, text_data, copy, max_steps=1))
    assert same(copy, whole)
    assert load(copy, "matrix.json")["scores"] == load(whole, "matrix.json")["scores"]
    assert steps(half)[-1] == "train:two"


def test_a_copy_of_a_finished_run_has_nothing_to_do(whole, llama, text_data, tmp_path):
    copy = copy_of(whole, tmp_path / "copy")
    before = steps(copy)
    go(recipe(llama, text_data, copy, max_steps=1))
    assert steps(copy) == before
    assert same(copy, whole)
