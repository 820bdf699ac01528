"""What a scorer is, and the two ways in which scorers turn item scores into a `TaskScore`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from ..intervals import bootstrap_mean, wilson
from ..items import Item, TaskScore


@runtime_checkable
class Scorer(Protocol):
    """Turns items into a score. Scorers hold no state: the same items and seed give the same score."""

    @property
    def name(self) -> str:
        """Plain name, as written in a stream."""

    @property
    def version(self) -> int:
        """Raised whenever a change could alter a score."""

    @property
    def key(self) -> str:
        """``name@version``, as stored beside every score."""

    @property
    def summary(self) -> str:
        """One line for lists."""

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set.

        Args:
            items: The items in test-set order.
            seed: Seed of whatever is drawn at random (bootstrap, shuffled references).

        Raises:
            DataError: There are no items, two items have the same id, or an item cannot be scored by this scorer.
        """


class BaseScorer:
    """The shared part of the scorers; subclasses set the first three attributes, mostly on the class, and write ``score``.

    Attributes:
        by_row: Whether answers of other programs belong to the annotations by row, whatever their ids (`read_answers`).
    """

    name: str
    version: int
    summary: str
    by_row: bool = False

    @property
    def key(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    def __repr__(self) -> str:
        return f"<scorer {self.key}>"

    def _rate(self, hits: Sequence[bool], extra: dict[str, Any]) -> TaskScore:
        """The share of hits in percent, with Wilson's interval."""
        n, right = len(hits), sum(hits)
        items = tuple(100.0 if hit else 0.0 for hit in hits)
        return TaskScore(self.key, 100 * right / n, n, wilson(right, n), "wilson", items, extra)

    def _mean(self, values: Sequence[float], extra: dict[str, Any], seed: int) -> TaskScore:
        """The mean of item scores, with a bootstrap interval."""
        n = len(values)
        interval = bootstrap_mean(values, seed=seed)
        return TaskScore(self.key, math.fsum(values) / n, n, interval, "bootstrap", tuple(values), extra)
