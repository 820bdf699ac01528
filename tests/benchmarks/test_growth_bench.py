"""`make bench-growth`: what the seconds of a run were spent on."""

from __future__ import annotations

import pytest

from benchmarks.growth import child
from benchmarks.growth.run import shares, spent, table


def entry(step, seconds, at):
    return {"step": step, "seconds": seconds, "time": f"2030-01-01T00:00:{at:06.3f}+00:00"}


def test_the_seconds_are_shared_out():
    entries = [
        entry("train:a", 2.0, 12.0),  # begins at 10
        entry("consolidate:a", 0.5, 13.0),  # half a second between them
        entry("evaluate:after_a:a", 1.0, 14.0),
        entry("finish", 1.0, 16.0),
    ]
    begin = 1893456000.0  # 2030-01-01
    found = spent(entries, begin + 4, begin + 22, begin + 24)
    assert found == {
        "wall": 20.0, "loading": 8.0, "train": 2.0, "evaluate": 1.0, "consolidate": 0.5, "finish": 1.0, "between": 1.5,
        "report": 6.0, "outside": pytest.approx(9 / 20),
    }  # fmt: skip
    used = {
        "loading": 2.0,
        "train": 1.0,
        "evaluate": 1.0,
        "consolidate": 0.0,
        "finish": 0.5,
        "between": 0.0,
        "report": 0.5,
    }
    row = {"tasks": 1, "steps": 4, **found, "processor": shares({"wall": 5.0, **used})}
    assert table([row]).splitlines()[-1] == (
        "| 1 | 4 | 20.0 (5.0) | 8.0 (2.0) | 2.0 (1.0) | 1.0 (1.0) | 0.5 (0.0) | 1.0 (0.5) | 1.5 (0.0) | 6.0 (0.5) "
        "| 45.0 % (20.0 %) |"
    )


def test_the_processor_seconds_of_a_step_are_those_of_its_kind(monkeypatch):
    now = {"t": 0.0}
    monkeypatch.setattr(child.time, "process_time", lambda: now["t"])

    def work(seconds):
        now["t"] += seconds
        return seconds

    clock = child.Clock()
    train, evaluate = clock.of("train", work), clock.of("evaluate", work)
    now["t"] = 3.0  # imports
    assert train(2.0) == 2.0
    now["t"] += 0.25
    evaluate(1.0)
    evaluate(0.5)
    now["t"] += 4.0
    expected = {"loading": 3.0, "train": 2.0, "evaluate": 1.5, "consolidate": 0.0, "finish": 0.0, "between": 0.25}
    assert clock.total() == {**expected, "report": 4.0}
    assert sum(clock.total().values()) == now["t"]
