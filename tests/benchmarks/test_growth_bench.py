"""`make bench-growth`: what the seconds of a run were spent on."""

from __future__ import annotations

import pytest

from benchmarks.growth.run import spent, table


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
    found = spent(entries, begin + 4, begin + 24)
    assert found == {
        "wall": 20.0, "loading": 6.0, "train": 2.0, "evaluate": 1.0, "consolidate": 0.5, "finish": 1.0, "between": 1.5,
        "report": 8.0, "outside": pytest.approx(11 / 20),
    }  # fmt: skip
    row = {"tasks": 1, "steps": 4, **found}
    assert table([row]).splitlines()[-1] == "| 1 | 4 | 20.0 | 6.0 | 2.0 | 1.0 | 0.5 | 1.0 | 1.5 | 8.0 | 55.0 % |"
