"""What the list says of a run."""

from __future__ import annotations

import json

from board.made import ALL, make
from report.made_runs import demo_run

from cl_plugins.base.lock import RunLock
from cl_plugins.board import state
from cl_plugins.board.state import States, log_tail, read_line
from cl_plugins.report import read_run


def test_states(tmp_path):
    stopped = read_line("r", make(tmp_path / "stopped", ALL[:3]))
    assert (stopped.state, stopped.done, stopped.steps, stopped.now) == ("stopped", 3, 8, "train two")
    assert (stopped.method, stopped.stream, stopped.took) == ("seqlora", "pair", "01:30")
    assert read_line("r", make(tmp_path / "new", [])).state == "not begun"
    finished = read_line("r", make(tmp_path / "finished", ALL))
    assert (finished.state, finished.now) == ("finished", "")
    failed = read_line("r", make(tmp_path / "failed", ALL[:3], failed={"step": "train:two", "error": "out of memory"}))
    assert (failed.state, failed.problem) == ("failed", "train:two: out of memory")


def test_options_and_replay_stand_with_the_method(tmp_path, monkeypatch):
    root, other = make(tmp_path / "r", ALL, method="ewc"), demo_run(tmp_path / "other", method="ewc")
    record = json.loads((other / "run.json").read_text())
    record["recipe"]["cl"] |= {"method": {"name": "ewc", "weight": 10}, "replay": {"capacity_per_task": 20}}
    (other / "run.json").write_text(json.dumps(record))
    assert read_line("r", root).method == "ewc"  # nothing was measured yet
    (root / "matrix.json").write_bytes((other / "matrix.json").read_bytes())
    monkeypatch.setattr(state, "read_run", lambda root: read_run(other))
    assert read_line("r", root).method == "ewc (weight=10) + replay 20/task"


def test_a_damaged_run_is_a_line_of_the_list(tmp_path):
    root = make(tmp_path / "r", ALL)
    (root / "journal.jsonl").write_text("{")
    line = read_line("r", root)
    assert line.state == "damaged"
    assert "journal.jsonl" in line.problem
    (root / "run.json").write_bytes(b"\xff\x00")
    assert read_line("r", root).state == "damaged"


def test_a_run_at_work_says_what_it_does(tmp_path):
    root = make(tmp_path / "r", ALL[:3])
    log = root / "tasks" / "02_two" / "trainer_log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"current_steps": 12, "total_steps": 40, "remaining_time": "0:01:10"}) + "\n")
    with RunLock(root):
        line = read_line("r", root)
        assert (line.state, line.now) == ("at work", "train two, 12 of 40 updates, 0:01:10 left")
        assert line.at_work["pid"]
        log.write_text("not json")
        assert read_line("r", root).now == "train two"
    assert read_line("r", root).state == "stopped"


def test_a_line_is_read_again_when_something_changes(tmp_path):
    states = States()
    root = make(tmp_path / "r", ALL[:3])
    first = states.line("r", root)
    assert states.line("r", root) is first
    with RunLock(root):
        assert states.line("r", root).state == "at work"
    assert states.line("r", root).state == "stopped"
    other = make(tmp_path / "other", ALL)
    (root / "journal.jsonl").write_bytes((other / "journal.jsonl").read_bytes())
    assert states.line("r", root).state == "finished"


def test_the_end_of_the_output(tmp_path):
    assert log_tail(tmp_path) == ""
    log = tmp_path / "board.log"
    log.write_bytes(b"one\n 10%|\r 99%|#\r100%|##\n\x1b[32mgreen\x1b[0m\r\nbad \xff \x07\n\n\n")
    assert log_tail(tmp_path) == "one\n100%|##\ngreen\nbad � �"
    assert log_tail(tmp_path, lines=2) == "green\nbad � �"
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert log_tail(tmp_path) == ""
