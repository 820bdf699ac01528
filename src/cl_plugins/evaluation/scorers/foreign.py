"""Scorers of other packages: what they return is checked, so that a wrong score stops the run and not its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from ...base.errors import ClPluginsError, DataError, Problem
from ..items import Item, TaskScore, require_items
from .base import BaseScorer, Scorer


class ForeignScorer(BaseScorer):
    """A scorer of another package.

    Args:
        scorer: The scorer.
        distribution: The package that registers it.
    """

    def __init__(self, scorer: Scorer, distribution: str) -> None:
        self.name, self.version, self.summary = scorer.name, scorer.version, scorer.summary
        self.by_row = bool(getattr(scorer, "by_row", False))
        self.variants = tuple(getattr(scorer, "variants", ()))
        self.variant = getattr(scorer, "variant", None)
        self._scorer, self._distribution = scorer, distribution

    def as_variant(self, variant: str) -> ForeignScorer:
        """Return the scorer with one of its `variants`."""
        if not isinstance(self._scorer, BaseScorer):
            raise DataError(self._problem("has variants, but no way to choose one."))
        return ForeignScorer(cast(Scorer, self._scorer.as_variant(variant)), self._distribution)

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`.

        Raises:
            DataError: As `Scorer.score`; also if the scorer fails, or what it returns is not a score of these items.
        """
        require_items(items)
        try:
            found = self._scorer.score(items, seed=seed)
        except ClPluginsError:
            raise
        except Exception as error:
            raise DataError(self._problem(f"failed ({type(error).__name__}: {error}).")) from error
        problems = [self._problem(what) for what in self._faults(found, len(items))]
        if problems:
            raise DataError(problems)
        return found

    def _problem(self, what: str) -> Problem:
        return Problem(f"scorer {self.key} of the package '{self._distribution}'", what, "Report this to its authors.")

    def _faults(self, found: object, count: int) -> list[str]:
        """What is wrong with a result."""
        if not isinstance(found, TaskScore):
            return [f"returned {type(found).__name__}, not a TaskScore."]
        faults = []
        try:
            TaskScore.from_dict(json.loads(json.dumps(found.to_dict(per_item=True))))
        except DataError as error:
            faults += [problem.what for problem in error.problems]
        except (TypeError, ValueError) as error:
            faults.append(f"returned values that JSON cannot represent ({error}).")
        keys = {self._key_of(variant) for variant in (self.variant, *(() if self.variant else self.variants))}
        if found.scorer not in keys:
            faults.append(f"returned a score with the key {found.scorer!r}.")
        if found.n != count:
            faults.append(f"returned n = {found.n!r} for {count} items.")
        if len(found.items) not in (0, count):
            faults.append(f"returned {len(found.items)} item scores for {count} items.")
        return faults
