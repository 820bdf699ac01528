import re
from collections.abc import Sequence

from cl_plugins.base.errors import DataError, Problem
from cl_plugins.evaluation.intervals import wilson
from cl_plugins.evaluation.items import Item, TaskScore, require_items
from cl_plugins.evaluation.scorers import BaseScorer


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def last_number(text: str) -> float | None:
    """Return the last number in a text, or None if there is none."""
    found = NUMBER.findall(text)
    return float(found[-1]) if found else None


class LastNumber(BaseScorer):
    """Share of items whose answer ends with the number of the reference."""

    name = "last_number"
    version = 1
    summary = "last number of the prediction equals that of the reference; in percent"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set."""
        require_items(items)
        wanted = [last_number(item.reference) for item in items]
        if None in wanted:
            item = items[wanted.index(None)]
            what = f"the reference {item.reference!r} holds no number."
            raise DataError(Problem(f"item {item.id}", what, "Use another scorer for this task."))
        hits = [last_number(item.prediction) == number for item, number in zip(items, wanted, strict=True)]
        right, n = sum(hits), len(hits)
        each = tuple(100.0 if hit else 0.0 for hit in hits)
        return TaskScore(self.key, 100 * right / n, n, wilson(right, n), "wilson", each)
