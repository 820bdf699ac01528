"""One run per directory."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys

import pytest

from cl_plugins.base.errors import RunStateError
from cl_plugins.base.files import append_line, write_json
from cl_plugins.base.lock import MARKER, RunLock, file_system, holder
from cl_plugins.run.journal import Journal


HOLD = """
import fcntl, os, sys
from pathlib import Path
from cl_plugins.base.lock import RunLock

def refuse(file, operation):
    raise OSError(int(sys.argv[2]), "no locks here")

if int(sys.argv[2]):
    fcntl.flock = refuse
with RunLock(Path(sys.argv[1])):
    child = os.fork() if sys.argv[3] == "fork" else -1
    if child != 0:
        print("held", flush=True)
    sys.stdin.read()
"""
NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


class Holder:
    """Another process that holds the lock of a directory."""

    def __init__(self, root, code: int = 0, fork: str = "") -> None:
        words = [sys.executable, "-c", HOLD, str(root), str(code), fork]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"held\n"
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(params=[0, *NO_LOCKS], ids=["locks", *(errno.errorcode[code] for code in NO_LOCKS)])
def locks(request, monkeypatch):
    """A file system with locks, and three kinds without."""
    if request.param:

        def refuse(file, operation):
            raise OSError(request.param, "no locks here")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def test_a_second_run_is_told_who_holds_it(locks, tmp_path):
    with (
        RunLock(tmp_path / "out"),
        pytest.raises(RunStateError, match=f"process {os.getpid()} on {socket.gethostname()}, started 2"),
    ):
        RunLock(tmp_path / "out").__enter__()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    with RunLock(tmp_path / "out"):  # free again
        pass


def test_another_process_and_its_death(locks, tmp_path):
    with Holder(tmp_path, locks) as other:
        with pytest.raises(RunStateError, match=f"process {other.pid} on "), RunLock(tmp_path):
            pass
        assert holder(tmp_path)["pid"] == other.pid
        other.kill()
        assert holder(tmp_path) is None
        with RunLock(tmp_path):
            pass


def test_the_holder_is_asked_without_taking_the_lock(locks, tmp_path):
    assert holder(tmp_path / "nowhere") is None
    with RunLock(tmp_path):
        note = holder(tmp_path)
        assert (note["pid"], note["host"]) == (os.getpid(), socket.gethostname())
    assert holder(tmp_path) is None


def test_a_directory_that_cannot_be_written_to_can_be_asked(tmp_path, monkeypatch):
    with RunLock(tmp_path):
        real = os.open

        def read_only(path, flags, *more):
            if flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, "read only")
            return real(path, flags, *more)

        monkeypatch.setattr(os, "open", read_only)
        assert holder(tmp_path)["pid"] == os.getpid()


def test_a_forked_process_does_not_keep_the_lock_of_a_killed_run(tmp_path):
    with Holder(tmp_path, fork="fork") as other:
        other.kill()  # its child still waits for its standard input
        with RunLock(tmp_path):
            pass


def test_a_note_that_cannot_be_read_does_not_matter(tmp_path):
    (tmp_path / ".lock").write_text("rubbish")
    with RunLock(tmp_path), pytest.raises(RunStateError, match=f"process {os.getpid()}"):
        RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_text(" [1]")
        with pytest.raises(RunStateError, match=r"process \? on \?"):
            RunLock(tmp_path).__enter__()


@pytest.mark.parametrize("locks", [errno.ENOLCK], indirect=True)
def test_a_file_system_without_locks_is_named(locks, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("cl_plugins"), "propagate", True)
    with caplog.at_level("WARNING", logger="cl_plugins"), RunLock(tmp_path):
        assert (tmp_path / MARKER).is_file()
        with pytest.raises(RunStateError, match="has no file locks; if that process is gone, delete") as refused:
            RunLock(tmp_path).__enter__()
    assert str(tmp_path / MARKER) in str(refused.value)
    assert file_system(tmp_path) in str(refused.value)
    assert file_system(tmp_path) in caplog.text


@pytest.mark.parametrize("locks", [errno.ENOLCK], indirect=True)
def test_a_marker_of_another_machine_is_never_removed(locks, tmp_path):
    (tmp_path / MARKER).write_text("123\nanother-machine\n")
    (tmp_path / ".lock").write_text(" " + json.dumps({"host": "another-machine", "pid": 123, "started": "then"}))
    with pytest.raises(RunStateError, match="process 123 on another-machine, started then"):
        RunLock(tmp_path).__enter__()
    assert holder(tmp_path)["host"] == "another-machine"
    (tmp_path / MARKER).unlink()
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_lock_file_that_is_no_file_is_refused(kind, tmp_path):
    path = tmp_path / ".lock"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "elsewhere").write_text("kept")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    with pytest.raises(RunStateError, match="cannot be used as lock file"):
        RunLock(tmp_path).__enter__()
    if kind == "link":
        assert (tmp_path / "elsewhere").read_text() == "kept"


# --- a lock file that is deleted or replaced --------------------------------------------------------------------------


def replace(root, locks):
    """What a synchronisation or a restored copy does: another file takes the name."""
    name = MARKER if locks else ".lock"
    new = root.parent / "new"
    new.write_text("")
    new.rename(root / name)


def delete(root, locks):
    (root / (MARKER if locks else ".lock")).unlink()


@pytest.mark.parametrize("change", [replace, delete])
def test_a_lock_file_that_was_replaced_stops_the_run(change, locks, tmp_path):
    root = tmp_path / "out"
    with RunLock(root) as lock:
        journal = Journal(root)
        journal.finish("train:one", 1.0, {})
        kept = (root / "journal.jsonl").read_bytes()
        change(root, locks)
        with pytest.raises(RunStateError, match="was deleted or replaced while process") as lost:
            lock.check()
        assert str(root) in str(lost.value)
        for write in (
            lambda: journal.finish("train:two", 1.0, {}),
            lambda: write_json(root / "deeper" / "matrix.json", {}),
            lambda: append_line(root / "parts.jsonl", "{}"),
        ):
            with pytest.raises(RunStateError, match="was deleted or replaced"):
                write()
        assert (root / "journal.jsonl").read_bytes() == kept
        assert not (root / "deeper").exists()
        write_json(tmp_path / "beside.json", {})  # not in this directory
    write_json(root / "later.json", {})  # nobody holds anything any more


def test_two_runs_do_not_go_on_beside_each_other(tmp_path):
    """The second run gets the new file; the first one stops before it writes again."""
    root = tmp_path / "out"
    with RunLock(root):
        replace(root, 0)
        with Holder(root) as other:
            with pytest.raises(RunStateError, match="was deleted or replaced"):
                Journal(root).finish("train:one", 1.0, {})
            assert holder(root)["pid"] == other.pid
