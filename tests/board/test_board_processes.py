"""Runs are started in processes of their own and stopped by SIGTERM; no other process gets a signal."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from cl_plugins.base.errors import RunStateError
from cl_plugins.base.lock import holder
from cl_plugins.board.processes import Processes, meaning


#: A run: holds the lock of the folder that its recipe names until SIGTERM, and ends as a run does.
RUN = """
import signal, sys, time
from pathlib import Path
from cl_plugins.base.lock import RunLock
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
with RunLock(Path(Path(sys.argv[1]).read_text())):
    print("at work", flush=True)
    while not asked:
        time.sleep(0.02)
print("stopped", file=sys.stderr)
sys.exit(75)
"""


def until(condition):
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about in half a minute")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(str(tmp_path / "run"))
    return path


def test_a_run_is_started_and_stopped(tmp_path, recipe):
    root = tmp_path / "run"
    processes = Processes([sys.executable, "-c", RUN])
    pid = processes.start(recipe, root)
    until(lambda: holder(root) is not None and holder(root).get("pid") == pid)
    assert os.getsid(pid) == pid  # Ctrl-C in the board's terminal does not reach it
    assert processes.alive(root)
    with pytest.raises(RunStateError, match="at work already"):
        processes.start(recipe, root)
    assert processes.stop(root) == pid
    until(lambda: processes.code(root) == 75)
    log = (root / "board.log").read_text()
    assert "recipe.yaml" in log
    assert "at work\n" in log
    assert log.endswith("stopped\n")
    with pytest.raises(RunStateError, match="is not at work"):
        processes.stop(root)


def test_a_run_is_known_by_its_relative_path_too(tmp_path, recipe, monkeypatch):
    """`cl-plugins board saves` names its folder relative to where it is started."""
    monkeypatch.chdir(tmp_path)
    root, relative = tmp_path / "run", Path("run")
    processes = Processes([sys.executable, "-c", RUN])
    pid = processes.start(recipe, root)
    assert processes.alive(relative)
    until(lambda: holder(root) is not None and holder(root).get("pid") == pid)
    assert processes.stop(relative) == pid
    until(lambda: processes.code(relative) == 75)


def test_another_board_can_stop_it(tmp_path, recipe):
    root = tmp_path / "run"
    first = Processes([sys.executable, "-c", RUN])
    pid = first.start(recipe, root)
    until(lambda: holder(root) is not None and holder(root).get("pid") == pid)
    assert Processes(["x"]).stop(root) == pid
    until(lambda: first.code(root) == 75)


def test_a_process_that_does_not_hold_the_lock_gets_no_signal(tmp_path, monkeypatch):
    sent = []
    for note in (
        {"pid": os.getppid(), "host": socket.gethostname()},
        {"pid": 1, "host": socket.gethostname()},
        {"pid": "1", "host": socket.gethostname()},
        {"pid": -1, "host": socket.gethostname()},
        {"pid": 2**80, "host": socket.gethostname()},
        {"host": socket.gethostname()},
        {"pid": os.getpid(), "host": "elsewhere"},
        {},
    ):
        monkeypatch.setattr("cl_plugins.board.processes.holder", lambda root, note=note: note)
        with pytest.raises(RunStateError):
            Processes(["x"]).stop(tmp_path, lambda *given: sent.append(given))
    assert sent == []


def test_the_log_is_not_written_through_a_link(tmp_path, recipe):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "board.log").symlink_to(tmp_path / "victim")
    with pytest.raises(RunStateError, match=r"board\.log"):
        Processes([sys.executable, "-c", "pass"]).start(recipe, tmp_path / "run")
    assert not (tmp_path / "victim").exists()


def test_a_check_passes_problems_on_and_says_when_it_fails(tmp_path, recipe):
    found = {
        str(recipe): {"problems": [{"where": "cl.method", "what": "is wrong.", "fix": "Mend it."}], "notes": ["n"]}
    }
    (tmp_path / "out.json").write_text(json.dumps(found))
    command = [sys.executable, "-c", f"print(open({str(tmp_path / 'out.json')!r}).read()); raise SystemExit(2)"]
    problems, notes = Processes(["x"], command).check(recipe)
    assert [str(problem) for problem in problems] == ["cl.method: is wrong. Mend it."]
    assert notes == ["n"]
    with pytest.raises(RunStateError, match="no memory"):
        Processes(["x"], [sys.executable, "-c", "raise SystemExit('no memory')"]).check(recipe)


def test_exit_codes_have_meanings():
    assert "resumes" in meaning(75)
    assert "failed" in meaning(1)
    assert "before the run began" in meaning(-signal.SIGTERM)
    assert "signal 9" in meaning(-9)
