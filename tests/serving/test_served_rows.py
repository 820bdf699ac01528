"""A row is answered alike by every kind of routed model, whoever shares its batch and however it is computed."""

from __future__ import annotations

import pytest
from served_models import ROUTED, answers, kinds

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
    assert answers(model, run.final, items, THIRTY, padding=5) == wanted
    assert answers(model, run.final, items, THIRTY, use_cache=False) == wanted
    few = len(run.items) // 2
    assert answers(model, run.final, items[:few], 1, padding=3) == wanted[:few]
    assert answers(model, run.final, items[:few], 1, use_cache=False) == wanted[:few]
