"""The display of the whole stream: lines without a terminal, and an estimate that adds up."""

from __future__ import annotations

import logging

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
    assert shown.eta() == "?"
    shown.begin(STEPS[0], 1, 3)
    now["t"] = 20.0
    shown.advance(10)  # 2 s an item
    shown.end()
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
    assert shown.eta() == "?"
    now["t"] = 9.0
    shown.advance(2)  # 2 s an item, two items left
    shown.end()
    shown.begin(STEPS[0], 1, 1, 2)
    assert shown.eta() == "10:04"  # the 300 steps count as the items do


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


def test_other_ranks_show_nothing(monkeypatch, caplog):
    monkeypatch.setattr(progress.logger, "propagate", True)
    shown, _ = make(monkeypatch, visible=False)
    with caplog.at_level(logging.INFO, logger="cl_plugins"):
        shown.begin(STEPS[0], 1, 3)
    assert not [record for record in caplog.records if record.name == "cl_plugins"]


def test_clock():
    assert [progress.clock(s) for s in (0, 59.6, 3600, 3725)] == ["00:00", "01:00", "1:00:00", "1:02:05"]
