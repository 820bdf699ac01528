"""Multiple choice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...base.errors import DataError, Problem
from ..items import Item, TaskScore, few, require_items
from .base import BaseScorer
from .options import parse_choice, parse_options, parse_reference
from .text import normalise


class ChoiceAccuracy(BaseScorer):
    """Share of multiple-choice items answered with the right option, by its letter or its exact text.

    Options come from the item, else from its prompt. An answer that chooses no option is invalid and counts as wrong.

    ``extra``: ``invalid_rate`` (share of invalid answers), ``random_baseline`` (mean over items of 100 / number of
    options; None when an item's options are unknown), ``majority_baseline`` (share of the most frequent reference:
    what always giving the same letter, or the same option text, would reach), ``items_without_options`` where there
    are any.
    """

    name = "choice_accuracy"
    version = 2
    summary = "multiple choice: letter, else the exact text of one option, else invalid; in percent"
    reports = "invalid rate, random and majority baselines"

    def score(self, items: Sequence[Item], *, seed: int = 0) -> TaskScore:
        """Score a test set; see `Scorer.score`."""
        require_items(items)
        options = [item.options or parse_options(item.prompt) for item in items]
        references = _references(items, options)
        choices = [parse_choice(item.prediction, choice) for item, choice in zip(items, options, strict=True)]
        n = len(items)
        extra: dict[str, Any] = {
            "invalid_rate": 100 * choices.count(None) / n,
            "random_baseline": None,
            "majority_baseline": _majority(references, options),
        }
        known = [sum(map(bool, texts)) or len(texts) for texts in options if texts]  # empty: a column without a cell
        if len(known) == n:
            extra["random_baseline"] = math.fsum(100 / count for count in known) / n
        else:
            extra["items_without_options"] = n - len(known)
        return self._rate([choice == right for choice, right in zip(choices, references, strict=True)], extra)


def _references(items: Sequence[Item], options: Sequence[tuple[str, ...] | None]) -> list[str]:
    """The right letter of each item."""
    letters = []
    problems = []
    for item, texts in zip(items, options, strict=True):
        letter = parse_reference(item.reference, texts)
        if letter is None:
            known = f"the options are {list(texts)}" if texts else "no options were given or found in the prompt"
            what = f"the reference {item.reference!r} names no option; {known}."
            fix = "A reference is the letter of an option or its text; name the task's column of options."
            problems.append(Problem(f"item {item.id!r}", what, fix))
        else:
            letters.append(letter)
    if problems:
        raise DataError(few(problems))
    return letters


def _majority(letters: Sequence[str], options: Sequence[tuple[str, ...] | None]) -> float:
    """What the best constant answer reaches; an answer may be a letter or an option's text, so both are counted."""
    counts = [max(Counter(letters).values())]
    texts = [normalise(known[ord(letter) - ord("A")]) for letter, known in zip(letters, options, strict=True) if known]
    if texts:
        counts.append(max(Counter(texts).values()))
    return 100 * max(counts) / len(letters)
