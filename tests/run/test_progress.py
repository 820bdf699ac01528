"""The display of the whole stream: lines without a terminal, and an estimate that adds up."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from cl_plugins.run import progress
from cl_plugins.run.plan import Step


STEPS = [Step("evaluate", "a", "zero_shot"), Step("train", "a"), Step("train", "b")]


def make(monkeypatch, visible=True):
    now = {"t": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: now["t"])
    units = {STEPS[0].key: ("evaluate", 10), STEPS[1].key: ("train", 100), STEPS[2].key: ("train", 200)}
    return progress.Progress(units, visible=visible), now


def test_the_estimate_is_each_kinds_units_times_its_own_pace(monkeypatch):
    shown, now = make(monkeypatch)
    assert shown.eta() == "? + 300 optimizer steps + 10 test items"
    shown.begin(STEPS[0], 1, 3)
    now["t"] = 20.0
    shown.advance(10)  # 2 s an item
    shown.end()
    assert shown.eta() == "00:00 + 300 optimizer steps"  # an item's pace says nothing about a step's
    shown.begin(STEPS[1], 2, 3)
    now["t"] = 70.0
    shown.advance(50)  # 1 s a step
    assert shown.eta() == "04:10"  # 50 + 200 steps are left
    shown.advance(50)
    shown.end()
    assert shown.eta() == "01:40"  # 100 steps in 50 s by now: 200 steps at half a second


def test_what_an_earlier_start_has_done_says_nothing_about_the_pace(monkeypatch):
    shown, now = make(monkeypatch)
    shown.skip(1)  # no step yet
    shown.begin(STEPS[0], 1, 3)
    now["t"] = 5.0
    shown.skip(6)
    assert shown.eta() == "? + 300 optimizer steps + 4 test items"
    now["t"] = 9.0
    shown.advance(2)  # 2 s an item, two items left
    shown.end()
    shown.begin(STEPS[0], 1, 1, 2)
    assert shown.eta() == "00:04 + 300 optimizer steps"


def test_plain_lines_say_what_is_done_and_how_long_it_will_take(monkeypatch, caplog):
    monkeypatch.setattr(progress.logger, "propagate", True)
    shown, _ = make(monkeypatch)
    with caplog.at_level(logging.INFO, logger="cl_plugins"):
        shown.begin(STEPS[0], 1, 3)
        shown.begin(STEPS[1], 2, 3)
    # another test's capture may have left a second handler on the host's loggers, hence each message once
    first, second = dict.fromkeys(r.getMessage() for r in caplog.records if r.name == "cl_plugins")
    assert "step 1/3: evaluate a (zero-shot)" in first
    assert "step 2/3: train a" in second
    assert "ETA" in second


def test_a_long_stream_announces_a_row_of_short_tests_once(monkeypatch, caplog):
    monkeypatch.setattr(progress.logger, "propagate", True)
    shown, now = make(monkeypatch)
    steps = [Step("evaluate", task, row) for row in ("after_a", "after_b") for task in "abc"]
    seconds = dict.fromkeys(steps, 0.1) | {steps[4]: 2.0}
    for of in (6, 600):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="cl_plugins"):
            for number, step in enumerate(steps, start=1):
                shown.begin(step, number, of)
                now["t"] += seconds[step]
                shown.end()
        messages = dict.fromkeys(r.getMessage() for r in caplog.records if r.name == "cl_plugins")
        announced = [int(message.split("/")[0].removeprefix("step ")) for message in messages]
        assert announced == ([1, 2, 3, 4, 5, 6] if of == 6 else [1, 4, 6])  # 6: the test before it took two seconds


def test_other_ranks_show_nothing(monkeypatch, caplog):
    monkeypatch.setattr(progress.logger, "propagate", True)
    shown, _ = make(monkeypatch, visible=False)
    with caplog.at_level(logging.INFO, logger="cl_plugins"):
        shown.begin(STEPS[0], 1, 3)
    assert not [record for record in caplog.records if record.name == "cl_plugins"]


def test_trainings_of_unknown_length_are_said_to_be_unknown(monkeypatch):
    shown, now = make(monkeypatch)
    shown = progress.Progress({STEPS[0].key: ("evaluate", 10), STEPS[1].key: ("train", None)}, visible=False)
    assert shown.eta() == "? + 10 test items + 1 of unknown length"
    shown.begin(STEPS[0], 1, 2)
    now["t"] = 10.0
    shown.advance(5)
    assert shown.eta() == "00:10 + 1 of unknown length"
    shown.end()
    shown.begin(STEPS[1], 2, 2)
    shown.advance(3)  # its length is still unknown
    shown.begin(STEPS[1], 2, 2, 20)
    now["t"] = 30.0
    shown.advance(10)
    assert shown.eta() == "00:15"  # 13 steps in 20 s, ten to go


TERMINAL = r"""
import logging, sys
from cl_plugins.base.logs import logger, set_up
from cl_plugins.run.plan import Step
from cl_plugins.run.progress import Progress

host = logging.getLogger("host")
host.addHandler(logging.StreamHandler(sys.stdout))
host.setLevel("INFO")
set_up()
step = Step("train", "evil\x1b]0;title\x07\x9b31m")
shown = Progress({step.key: ("train", 4)})
shown.begin(step, 1, 1)
for number in range(4):
    shown.advance()
    print("a printed line", number)
    host.info("a line of the host \x1b]0;title\x07")
    sys.stderr.write("\rbar %d" % number)
sys.stderr.write("\rLoading:  50%|#    | 49/98 [00:00<?, ?it/s]\rLoading: 100%|##| 98/98 [00:00<00:00, 15232.80it/s]\n")
sys.stderr.write("\rfetching\rfetched everything\n")
logger.info("a line about %s", step.task)
shown.close()
assert sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
assert host.handlers[0].stream is sys.__stdout__
print("done")
"""


def run_in(kind: str) -> str:
    """What a program writes, on a terminal of 80 columns or into a pipe."""
    words = [sys.executable, "-c", TERMINAL]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"}
    env.pop("RANK", None)
    if kind == "pipe":
        return subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, check=True
        ).stdout.decode()
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, stdin=theirs, env=env) as running:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error on Linux
            while chunk := os.read(ours, 65536):
                written += chunk
    os.close(ours)
    assert running.returncode == 0, written.decode()
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines that are left when the status line has been erased."""
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written).replace("\r\n", "\n").split("\n")
    return [line.rpartition("\r")[2] for line in lines]


def test_on_a_terminal_the_log_stands_above_one_status_line():
    written = run_in("terminal")
    assert "[1/1] train evil" in written
    assert "ETA 00:0" in written
    left = screen(written)
    for number in range(4):
        assert any(line.startswith(f"a printed line {number}") for line in left)
    assert sum("a line of the host" in line for line in left) == 4
    assert any("a line about evil" in line for line in left)
    assert not any("bar" in line for line in left[:-1])  # the bars of others are not drawn
    assert not any("Loading" in line for line in left)  # nor, when they are over, what they said last
    assert any(line.startswith("fetched everything") for line in left)
    assert left[-2] == "done"


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_escape_sequences_of_names_never_reach_the_terminal(kind):
    written = run_in(kind)
    assert "a line about evil\\x1b]0;title\\x07\\x9b31m" in written
    if kind == "pipe":
        ours = [line for line in written.splitlines() if "a line of the host" not in line]
        assert not any(char in "".join(ours) for char in "\x1b\x07\x9b")
    else:
        assert "\x1b]0" not in written
        assert not any(char in written for char in "\x07\x9b")


class Line:
    """A status line that keeps what it is told."""

    def __init__(self, width):
        self.width, self.shown = width, []

    def show(self, label, done, total, times):
        self.shown.append(f"{label} {times}")


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_a_narrow_terminal_has_room_for_the_label_the_bar_and_the_times(monkeypatch, columns):
    shown, now = make(monkeypatch)
    shown._line = line = Line(columns)
    shown.begin(STEPS[0], 1, 3)
    now["t"] = 5.0
    shown.advance(5)
    full = ["ETA ? + 300 optimizer steps + 10 test items", "ETA 00:05 + 300 optimizer steps"]
    short = ["ETA ?", "ETA 00:05 + training"]
    assert [text.partition(", ")[2] for text in line.shown] == {80: short, 100: [short[0], full[1]], 120: full}[
        columns
    ]
    assert max(map(len, line.shown)) <= columns - 8  # a bar, and `100%`


def test_clock():
    assert [progress.clock(s) for s in (0, 59.6, 3600, 3725)] == ["00:00", "01:00", "1:00:00", "1:02:05"]
