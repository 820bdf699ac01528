"""Ids that occur more than once, with eight bytes for each."""

from __future__ import annotations

import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.data.prepare.repeats import key, repeated


@given(st.lists(st.text(st.characters(), max_size=2), max_size=40))
def test_as_a_counter_would_count(names: list[str]) -> None:
    found = repeated(iter(names))
    assert len(found) == sum(count - 1 for count in Counter(names).values())
    assert {int(one) for one in found} == {key(name) for name, count in Counter(names).items() if count > 1}


def test_a_lone_surrogate_is_an_id_like_any_other() -> None:
    assert len(repeated(["\ud800", "\ud800", "\ud801"])) == 1


def test_memory_is_that_of_the_hashes() -> None:
    count = 200_000
    repeated(["a", "b"])  # imports numpy
    tracemalloc.start()
    try:
        assert len(repeated(f"question-{n}" for n in range(count))) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * count, f"{peak / count:.1f} bytes per id; the ids themselves would take more than 60"
