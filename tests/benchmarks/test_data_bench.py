"""The synthetic raw files of `make bench-data`: every converter reads its own, and leaves nothing out."""

from __future__ import annotations

import pytest

from benchmarks.data.layouts import cases, write
from benchmarks.data.memory import WHY, growth, name_of, table
from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.data.prepare.registry import CONVERTERS, load


CASES = list(cases(CONVERTERS))


def test_every_converter_has_a_case_and_every_reason_belongs_to_one():
    places = {place for tasks in CONVERTERS.values() for place in tasks.values()}
    assert {CONVERTERS[stream][task] for stream, task, _ in CASES} == places
    assert set(WHY) <= {name_of(*case) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_nothing_is_dropped(case, tmp_path):
    stream, task, form = case
    raw = tmp_path / "raw"
    raw.mkdir()
    settings = write(load(CONVERTERS[stream][task]), raw, 30, 8, form)
    made = prepare(Request(stream, raw, tmp_path / "out", tasks=(task,), settings=settings))
    counts = {name.rpartition("_")[2]: entry["records"] for name, entry in made.items()}
    assert {name: entry["dropped"]["count"] for name, entry in made.items()} == dict.fromkeys(made, 0)
    assert counts["train"] >= 30
    assert counts["test"] >= 8


def test_the_table_says_what_is_held_and_that_nothing_is_said():
    def peaks(more):
        return {"1000": {"records": 1100, "peak_bytes": 2**20}, "3000": {"records": 3300, "peak_bytes": 2**20 + more}}

    assert growth(peaks(200_000)) == 100
    lines = table({"medical_cl.cell": peaks(200_000), "trace.fomc": peaks(200_000), "trace.py150": peaks(2000)})
    held = [line.split("|")[-2].strip() for line in lines.splitlines()[2:]]
    assert held == [WHY["medical_cl.cell"], "**not said**", ""]
