"""Trackers of a stream that a script leads: those that its trainers name in ``report_to``, as one run for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_run_for_all() -> Iterator[None]:
    """Trainers that are made inside get none of Transformers' tracker callbacks, which begin a run for every training.

    Names that Transformers does not know are refused as before. Callbacks that the script gives itself stay.
    """
    from transformers import trainer

    module: Any = trainer
    original = module.get_reporting_integration_callbacks

    def none_of(names: Any) -> list[Any]:
        original(names)  # for its error
        return []

    module.get_reporting_integration_callbacks = none_of
    try:
        yield
    finally:
        module.get_reporting_integration_callbacks = original
