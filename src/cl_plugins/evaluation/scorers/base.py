"""What a scorer is, and the two ways in which scorers turn item scores into a `TaskScore`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ..intervals import bootstrap_mean, wilson
from ..items import Item, TaskScore
from .segmentation import SEGMENTATIONS, Segmentation, segmentation


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
        """``name@version``, as stored with every score."""

    @property
    def summary(self) -> str:
        """One line for lists."""

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set.

        Args:
            items: The items in test-set order.
            seed: Seed of random choices (bootstrap, shuffled references).

        Raises:
            DataError: There are no items, two items have the same id, or an item cannot be scored by this scorer.
        """


class BaseScorer:
    """Base class of the scorers; subclasses set the first three attributes, usually on the class, and ``score``.

    Attributes:
        reports: What a score's `extra` holds for the reader, such as baselines; a few words for lists.
        by_row: Whether answers of other programs belong to the annotations by row, ignoring their ids
            (`read_answers`).
        variants: What may follow the name behind a colon (``bleu:zh``), where a scorer has several ways to split text.
        variant: The requested one; None lets the references decide.
    """

    name: str
    version: int
    summary: str
    reports: str = ""
    by_row: bool = False
    variants: tuple[str, ...] = ()
    variant: str | None = None

    #: Where a score is no mean over items but a function of sums over them: from items to the numbers of each item, and the
    #: function. Intervals of differences (`cl_plugins.evaluation.drift`) are computed with it.
    statistics: Callable[[Sequence[Item]], tuple[Sequence[Sequence[float]], Callable[[Any], float]]] | None = None

    def as_variant(self, variant: str) -> BaseScorer:
        """The scorer with one of its `variants`, independent of the references."""
        found = copy.copy(self)
        found.variant = variant
        return found

    @property
    def key(self) -> str:
        """``name@version``, with a requested variant ``name:variant@version``."""
        return self._key_of(self.variant)

    def _key_of(self, variant: str | None) -> str:
        return f"{self.name}:{variant}@{self.version}" if variant else f"{self.name}@{self.version}"

    def __repr__(self) -> str:
        return f"<scorer {self.key}>"

    def _rate(self, hits: Sequence[bool], extra: dict[str, Any], key: str | None = None) -> TaskScore:
        """The share of hits in percent, with Wilson's interval."""
        n, right = len(hits), sum(hits)
        items = tuple(100.0 if hit else 0.0 for hit in hits)
        return TaskScore(key or self.key, 100 * right / n, n, wilson(right, n), "wilson", items, extra)

    def _mean(self, values: Sequence[float], extra: dict[str, Any], seed: int, key: str | None = None) -> TaskScore:
        """The mean of item scores, with a bootstrap interval."""
        n = len(values)
        interval = bootstrap_mean(values, seed=seed)
        return TaskScore(key or self.key, math.fsum(values) / n, n, interval, "bootstrap", tuple(values), extra)


class SegmentingScorer(BaseScorer):
    """A scorer that uses words, or characters where the references are written without spaces.

    The key of a score names the segmentation (``contains:characters@3``) unless the references decided for words.
    """

    variants = SEGMENTATIONS

    def _segmentation(self, items: Sequence[Item]) -> tuple[Segmentation, str]:
        """How the texts of a test set are split, and the key of its score."""
        if self.variant is not None:
            return next(known for known in SEGMENTATIONS if known == self.variant), self.key
        found = segmentation(item.reference for item in items)
        return found, self.key if found == "words" else self._key_of(found)
