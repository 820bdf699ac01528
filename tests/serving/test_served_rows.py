"""A row is answered alike by every kind of routed model, whoever shares its batch and however it is computed."""

from __future__ import annotations

import pytest
from served_models import ROUTED, answers, close_calls, kinds

import cl_plugins


THIRTY = 30


@pytest.mark.parametrize("name", kinds(ROUTED))
def test_a_row_is_answered_alike_in_every_batch(finished, name):
    """Thirty at a time, padded on the left, rows of text among rows with pictures, with and without a cache of keys and values;
    and alone."""
    run = finished(name)
    model = cl_plugins.load(run.final)
    items = [run.items[i % len(run.items)] for i in range(THIRTY)]
    assert {item.picture is None for item in items} == {True, False}
    wanted = [item.answer.strip() for item in items]
    close = close_calls(model, run.final, items) if "bf16" in name else [False] * THIRTY
    assert not all(close)
    few = len(run.items) // 2
    for number, size, settings in (
        (THIRTY, THIRTY, {"padding": 5}),
        (THIRTY, THIRTY, {"use_cache": False}),
        (few, 1, {"padding": 3}),
        (few, 1, {"use_cache": False}),
    ):
        found = answers(model, run.final, items[:number], size, **settings)
        other = [i for i, (one, two) in enumerate(zip(found, wanted[:number], strict=True)) if one != two]
        assert all(close[i] for i in other), (settings, other)
