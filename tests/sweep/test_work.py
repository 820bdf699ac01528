"""Cells are carried out once, several at a time; failed ones are noted, stopped ones go on, and sweeps share a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from launch import PATIENCE
from made_cells import cells, finish, launcher, starts

from cl_plugins.base.errors import DataError, Problem
from cl_plugins.base.lock import RunLock, holder
from cl_plugins.sweep import ledger, work
from cl_plugins.sweep.processes import Processes
from cl_plugins.sweep.progress import Progress
from cl_plugins.sweep.work import run_cells, slots


class Starts:
    """Stands in for the launch command: finishes a run, or ends with the exit code that its method is given."""

    def __init__(self, **codes):
        self.codes, self.seen = codes, []

    def __call__(self, cell, environment):
        self.seen.append((cell.id, dict(environment)))
        assert cell.recipe_file.is_file()
        code = self.codes.get(cell.method, 0)
        if code == 0:
            finish(cell)
        return code


@pytest.fixture
def lines():
    return []


def go(made, folder, start, lines, **options):
    return run_cells(made, folder / "ledger", start, say=lines.append, pause=0.01, **options)


def test_a_finished_cell_is_entered_and_not_run_again(tmp_path, lines):
    made, start = cells(tmp_path, seeds=[0, 1], methods=["olora", "seqlora"]), Starts()
    outcomes = go(made, tmp_path, start, lines)
    assert [outcomes[c.id].state for c in made] == ["finished"] * 4
    assert [name for name, _ in start.seen] == [c.id for c in made]
    entries = ledger.read_ledger(tmp_path / "ledger")
    assert {e.path.stem for e in entries} == {c.id for c in made}
    entry = next(e for e in entries if e.path.stem == made[0].id)
    assert entry.content["cell"] == ledger.about(made[0])
    assert entry.content["step_seconds"] == {"train:one": 2.0, "finish": 2.0}
    assert entry.content["update_bytes"] == {"one": 10}
    assert entry.content["run"] == {"method": "olora", "seed": 0}
    assert entry.seconds == 4.0
    before = {p: p.read_bytes() for p in (tmp_path / "ledger").iterdir()}
    lines.clear()
    again = go(made, tmp_path, start, lines)
    assert all(outcome.before for outcome in again.values())
    assert len(start.seen) == 4
    assert sum("finished before" in line for line in lines) == 4
    assert {p: p.read_bytes() for p in (tmp_path / "ledger").iterdir()} == before


def test_a_cell_that_another_machine_has_finished_with_other_data_does_not_count(tmp_path, lines):
    made, start = cells(tmp_path, seeds=[0, 1]), Starts()
    assert go(made, tmp_path, start, lines)[made[0].id].state == "finished"
    why = Problem(made[0].id, "was made with other data.", "Restore them.")
    again = go(made, tmp_path, start, lines, changed=lambda cell: [why] if cell is made[0] else [])
    assert (again[made[0].id].state, again[made[0].id].why) == ("failed", str(why))
    assert again[made[1].id].before
    assert "was made with other data" in "".join(lines)
    assert not made[0].failure.exists()
    assert len(start.seen) == 2


def test_a_run_that_is_finished_already_is_only_entered(tmp_path, lines):
    (cell,) = cells(tmp_path)
    finish(cell)
    start = Starts()
    assert go([cell], tmp_path, start, lines)[cell.id].state == "finished"
    assert start.seen == []
    assert ledger.entry_file(cell, tmp_path / "ledger").is_file()


def test_a_failed_run_is_noted_and_the_others_go_on(tmp_path, lines):
    made = cells(tmp_path, methods=["olora", "seqlora", "ewc"])
    outcomes = go(made, tmp_path, Starts(seqlora=3), lines)
    assert [outcomes[c.id].state for c in made] == ["finished", "failed", "finished"]
    bad = made[1]
    note = json.loads(bad.failure.read_text())
    assert (note["exit_code"], note["log"], note["cell"]["id"]) == (3, str(bad.log), bad.id)
    assert not ledger.entry_file(bad, tmp_path / "ledger").exists()
    assert any("FAILED" in line and "exit code 3" in line and str(bad.log) in line for line in lines)
    start = Starts()
    outcomes = go(made, tmp_path, start, lines)
    assert [name for name, _ in start.seen] == [bad.id], "the failed one alone is tried again"
    assert outcomes[bad.id].state == "finished"
    assert not bad.failure.exists()


def test_a_run_that_ends_without_its_last_step_has_failed(tmp_path, lines):
    (cell,) = cells(tmp_path)
    outcome = go([cell], tmp_path, lambda cell, more: 0, lines)[cell.id]
    assert (outcome.state, outcome.code) == ("failed", 0)
    assert "ended before its last step" in lines[-1]


def test_a_run_whose_files_cannot_be_entered_has_failed(tmp_path, lines):
    made = cells(tmp_path, seeds=[0, 1])

    def start(cell, environment):
        finish(cell)
        if cell.seed == 0:
            (cell.output_dir / "run.json").write_text("{")
        return 0

    outcomes = go(made, tmp_path, start, lines)
    assert [outcomes[c.id].state for c in made] == ["failed", "finished"]
    assert "run.json" in json.loads(made[0].failure.read_text())["why"]


def test_run_again_is_no_failure(tmp_path, lines):
    (cell,) = cells(tmp_path)
    assert go([cell], tmp_path, Starts(olora=75), lines)[cell.id].state == "stopped"
    assert not cell.failure.exists()
    assert go([cell], tmp_path, Starts(), lines)[cell.id].state == "finished"


def test_as_many_at_once_as_there_are_slots(tmp_path, lines):
    """Each waits for the other, so neither can be alone; each slot has its own devices."""
    made, meeting, seen = cells(tmp_path, seeds=[0, 1, 2, 3]), threading.Barrier(2, timeout=60), []

    def start(cell, environment):
        meeting.wait()
        seen.append(environment[work.VISIBLE])
        finish(cell)
        return 0

    outcomes = go(made, tmp_path, start, lines, environments=slots(2, ["0,1", "2"]))
    assert {outcome.state for outcome in outcomes.values()} == {"finished"}
    assert sorted(seen) == ["0,1", "0,1", "2", "2"]


def test_devices_and_threads_of_the_slots(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv(work.THREADS, raising=False)
    assert slots(1, []) == [{}]
    assert slots(2, []) == [{work.THREADS: "4"}] * 2
    assert slots(3, ["0", "1"]) == [{work.VISIBLE: "0"}, {work.VISIBLE: "1"}, {work.VISIBLE: "0"}]
    monkeypatch.setenv(work.THREADS, "2")
    assert slots(2, []) == [{}, {}]


def test_a_cell_that_another_sweep_holds_comes_last(tmp_path):
    made, start, lines = cells(tmp_path, seeds=[0, 1]), Starts(), []
    held = RunLock(tmp_path / ".claims" / made[0].id)
    held.__enter__()

    def say(line):
        lines.append(line)
        if "done after" in line and held is not None:
            held.__exit__(None, None, None)

    run_cells(made, tmp_path / "ledger", start, say=say, pause=0.01)
    assert [name for name, _ in start.seen] == [made[1].id, made[0].id]
    assert sum("another process is at work on it" in line for line in lines) == 1


def wait_for(condition):
    end = time.time() + PATIENCE
    while not condition():
        assert time.time() < end
        time.sleep(0.02)


def test_a_signal_stops_the_runs_and_starts_no_more(tmp_path, lines):
    made, processes = cells(tmp_path, seeds=[0, 1, 2]), Processes()
    command = launcher(tmp_path)

    def start(cell, environment):
        return processes.run([*command, str(cell.recipe_file)], cell.log, environment)

    def stop():
        wait_for(lambda: len(starts(tmp_path)) == 2)
        processes.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    outcomes = go(made, tmp_path, start, lines, environments=[{}, {}], stopped=lambda: processes.stopped)
    thread.join()
    assert [outcomes[c.id].state for c in made] == ["stopped"] * 3
    assert len(starts(tmp_path)) == 2
    assert processes.run(["false"], tmp_path / "log", {}) is None
    (tmp_path / "go").touch()
    processes = Processes()
    outcomes = go(made, tmp_path, start, lines)
    assert {outcome.state for outcome in outcomes.values()} == {"finished"}


SWEEP = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from launch import PATIENCE
from made_cells import cells, launcher
from cl_plugins.sweep.processes import Processes
from cl_plugins.sweep.work import run_cells
folder, processes = Path({folder!r}), Processes()
command = launcher(folder)
with processes.on_signals():
    found = run_cells(
        cells(folder, seeds=[0, 1]),
        folder / "ledger",
        lambda cell, more: processes.run([*command, str(cell.recipe_file)], cell.log, more),
        say=print,
        stopped=lambda: processes.stopped,
    )
print([outcome.state for outcome in found.values()])
sys.exit(75 if processes.stopped else 0)
"""


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two cells in a process of its own, whose first run is at work."""
    program = tmp_path / "sweep.py"
    program.write_text(SWEEP.format(path=[*sys.path, str(Path(__file__).parent)], folder=str(tmp_path)))
    running = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: starts(tmp_path) or running.poll() is not None)
    yield running
    (tmp_path / "go").touch()
    running.kill()
    running.wait()


def test_after_a_kill_the_run_at_work_is_waited_for(sweep, tmp_path):
    """A killed sweep leaves its run at work; the next one must not start it a second time."""
    made, lines = cells(tmp_path, seeds=[0, 1]), []
    wait_for(lambda: holder(made[0].output_dir) is not None)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    assert holder(made[0].output_dir) is not None, "the run goes on without its sweep"
    processes, command = Processes(), launcher(tmp_path)

    def say(line):
        lines.append(line)
        if "another process" in line:
            (tmp_path / "go").touch()

    outcomes = run_cells(
        made,
        tmp_path / "ledger",
        lambda cell, more: processes.run([*command, str(cell.recipe_file)], cell.log, more),
        say=say,
        pause=0.01,
    )
    assert {outcome.state for outcome in outcomes.values()} == {"finished"}
    assert starts(tmp_path) == [made[0].id, made[1].id]
    assert {p.stem for p in (tmp_path / "ledger").iterdir()} == {c.id for c in made}


def test_a_signal_for_the_sweep_reaches_its_run(sweep, tmp_path):
    sweep.send_signal(signal.SIGTERM)
    output, _ = sweep.communicate()
    assert sweep.returncode == 75, output
    assert "['stopped', 'stopped']" in output
    assert len(starts(tmp_path)) == 1


def test_the_time_that_is_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress(6, 2, [("a", 60.0)])
    assert progress.left() == 6 * 60 / 2
    progress.ends("x", None)  # one that was finished before
    progress.begins("1", "a")
    progress.begins("2", "b")
    clock[0] += 20
    assert progress.left() == (40 + 40 + 3 * 60) / 2
    progress.ends("2", 20.0)
    assert progress.left() == (40 + 3 * 40) / 2
    assert progress.text() == "(2 of 6, ETA 01:20)"
    assert Progress(2, 1).left() is None
    assert Progress(2, 1).text() == "(0 of 2, ETA ?)"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "cell": {"recipe": "a"}, "own": 3}']
)
def test_damaged_entries_are_all_named(tmp_path, content):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(DataError) as error:
        ledger.read_ledger(tmp_path)
    assert [Path(problem.where).name for problem in error.value.problems] == ["a.json", "b.json"]


def test_an_empty_ledger(tmp_path):
    with pytest.raises(DataError, match="holds no finished cell"):
        ledger.read_ledger(tmp_path)
