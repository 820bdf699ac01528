"""What the reference scorers share: a library of named rules, and scorers made of a rule per item."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....base.errors import Problem, RecipeError
from ....base.schema import nearest
from ...items import Item, TaskScore, require_items
from ..base import BaseScorer, Scorer


#: From an item to its score, 0-1.
Rule = Callable[[Item], float]


class RuleScorer(BaseScorer):
    """The mean of a rule over all items, in percent, with the name that the library prints: ``accuracy``.

    ``extra``: ``metrics`` (what the library prints, by name) and ``strict_twin`` (our scorer for the same
    question without the quirks of the library).
    """

    def __init__(self, name: str, rule: Rule, summary: str, twin: str | None, version: int = 1) -> None:
        """Set up.

        Args:
            name: ``peer:<library>:<task>``.
            rule: The rule.
            summary: One line.
            twin: Name of the strict scorer; None where there is none.
            version: Raised whenever a score could change.
        """
        self.name, self.rule, self.summary, self.twin, self.version = name, rule, summary, twin, version

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        values = [float(self.rule(item)) for item in items]
        extra: dict[str, Any] = {"metrics": {}, "strict_twin": self.twin}
        if set(values) <= {0.0, 1.0}:
            score = self._rate([value == 1.0 for value in values], extra)
        else:
            score = self._mean([100 * value for value in values], extra, seed)
        extra["metrics"] |= self.metrics(items, values, score.score)
        return score

    def metrics(self, items: Sequence[Item], values: Sequence[float], score: float) -> dict[str, float]:
        """What the library prints.

        Args:
            items: The items.
            values: The rule's value of each, 0-1.
            score: Their mean in percent.
        """
        return {"accuracy": score}


@dataclass(frozen=True)
class ReferenceLibrary:
    """The scorers of one reference implementation.

    Attributes:
        name: As in ``peer:<name>``.
        source: Repository and commit that the rules were read in.
        scorers: Task to scorer.
        default: The scorer of ``peer:<name>`` alone; None where the task has to be named.
        aliases: Other names of tasks, in the form that `canonical` gives.
        refused: Task to the reason why its rule is not offered.
    """

    name: str
    source: str
    scorers: Mapping[str, Scorer]
    default: Scorer | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, task: str | None) -> Scorer:
        """The scorer of a task.

        Args:
            task: The third part of ``peer:<library>:<task>``, None if there is none.

        Raises:
            RecipeError: There is no such task, its rule cannot be reproduced, or it has to be named.
        """
        where = f"peer:{self.name}" + (f":{task}" if task else "")
        names = ", ".join(f"peer:{self.name}:{name}" for name in self.scorers)
        if task is None:
            if self.default is not None:
                return self.default
            raise RecipeError(Problem(where, "has one rule per task; name the task.", f"Write one of {names}."))
        wanted = canonical(task)
        wanted = self.aliases.get(wanted, wanted)
        for name, scorer in self.scorers.items():
            if canonical(name) == wanted:
                return scorer
        for name, reason in self.refused.items():
            if canonical(name) == wanted:
                raise RecipeError(
                    Problem(where, f"is not offered: {reason}", f"Use a strict scorer, or one of {names}.")
                )
        fix = f"{nearest(task, self.scorers)} Known: {names}.".strip()
        raise RecipeError(Problem(where, f"the library {self.name!r} has no rule for {task!r}.", fix))


def canonical(name: str) -> str:
    """A task's name without case and punctuation, so that ``CLEVR-Math`` and ``clevr_math`` are one."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def text_field(item: Item, name: str) -> str | None:
    """A field of an item as text; the first entry of a list; None where there is none."""
    value = item.fields.get(name)
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return None if value is None else str(value)


def several(item: Item) -> list[str]:
    """All right answers of an item: its field ``answers``, else the one reference."""
    answers = item.fields.get("answers")
    if isinstance(answers, list | tuple) and answers:
        return [str(answer) for answer in answers]
    return [item.reference]
