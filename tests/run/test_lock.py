"""One run per directory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from cl_plugins.base.errors import RunStateError
from cl_plugins.base.lock import RunLock


HOLD = """
import sys
from pathlib import Path
from cl_plugins.base.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_told_who_holds_it(tmp_path):
    with (
        RunLock(tmp_path / "out"),
        pytest.raises(RunStateError, match=f"process {os.getpid()} on {socket.gethostname()}"),
    ):
        RunLock(tmp_path / "out").__enter__()
    with RunLock(tmp_path / "out"):  # free again
        pass


def test_another_process_and_its_death(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(RunStateError, match=f"process {child.pid} on "), RunLock(tmp_path):
            pass
    finally:
        child.kill()  # the kernel gives the lock back, whatever happened
        child.communicate()
    with RunLock(tmp_path):
        pass


def test_a_note_that_cannot_be_read_does_not_matter(tmp_path):
    (tmp_path / ".lock").write_text("rubbish")
    with RunLock(tmp_path), pytest.raises(RunStateError, match=f"process {os.getpid()}"):
        RunLock(tmp_path).__enter__()
