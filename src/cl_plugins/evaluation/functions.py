"""The strict scorers as plain functions of two lists.

```python
from cl_plugins.evaluation.functions import exact_match

exact_match(["Yes.", "left"], ["yes", "right"]).score  # 50.0
```

Each function has the name of its scorer, and gives what that scorer gives: a `TaskScore` with the score (0-100), the number
of items, a 95 % interval, each item's score and what else is reported. `score` takes any scorer by its name, those of
other libraries (``peer:...``) and registered ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import DataError, Problem
from .items import Item, TaskScore, few
from .option_lists import read_options
from .scorers import get_scorer


__all__ = [
    "bleu",
    "box_accuracy",
    "choice_accuracy",
    "contains",
    "edit_similarity",
    "exact_match",
    "list_f1",
    "rouge_l",
    "sari",
    "score",
    "starts_with",
    "token_f1",
]


def score(
    name: str,
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    options: Sequence[Any] | None = None,
    prompts: Sequence[str] | None = None,
    fields: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> TaskScore:
    """Score answers by a scorer's name.

    Args:
        name: As `get_scorer` takes it.
        predictions: The answers, one per item.
        references: The right answers, one per item.
        options: For multiple choice the texts of each item's options, in any form of `read_options`; else they are read
            from the prompts.
        prompts: The user turn of each item.
        fields: What else some reference scorers ask of each item (`cl_plugins.evaluation.items.FIELDS`).
        seed: Seed of the bootstrap and of shuffled references.

    Raises:
        RecipeError: There is no such scorer.
        DataError: The lists have different lengths or are empty, or an item cannot be scored by this scorer.
    """
    scorer = get_scorer(name)
    given = {"references": references, "options": options, "prompts": prompts, "fields": fields}
    n = len(predictions)
    wrong = [
        Problem(what, f"has {len(values)} entries.", f"Give one entry for each of the {n} predictions.")
        for what, values in given.items()
        if values is not None and len(values) != n
    ]
    if wrong:
        raise DataError(wrong)
    items = []
    listed = _options(options, n)
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        prompt = prompts[i] if prompts is not None else ""
        known = fields[i] if fields is not None else {}
        items.append(Item(str(i), prompt, prediction, reference, listed[i], known))
    return scorer.score(items, seed=seed)


def _options(options: Sequence[Any] | None, n: int) -> list[tuple[str, ...] | None]:
    """The options of each item."""
    found: list[tuple[str, ...] | None] = []
    problems = []
    for i, value in enumerate([None] * n if options is None else options):
        try:
            found.append(read_options(value))
        except ValueError as error:
            problems.append(Problem(f"options[{i}]", f"{error}.", "Give the texts of the options as a list."))
    if problems:
        raise DataError(few(problems))
    return found


def choice_accuracy(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    options: Sequence[Any] | None = None,
    prompts: Sequence[str] | None = None,
) -> TaskScore:
    """Multiple choice: a letter, else the exact text of one option, else invalid. Arguments as for `score`."""
    return score("choice_accuracy", predictions, references, options=options, prompts=prompts)


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> TaskScore:
    """Share of answers that equal the reference when both are normalised."""
    return score("exact_match", predictions, references)


def starts_with(predictions: Sequence[str], references: Sequence[str]) -> TaskScore:
    """Share of answers that begin with the reference, as whole words."""
    return score("starts_with", predictions, references)


def contains(predictions: Sequence[str], references: Sequence[str]) -> TaskScore:
    """Share of answers that hold the reference, as whole words."""
    return score("contains", predictions, references)


def token_f1(predictions: Sequence[str], references: Sequence[str], *, seed: int = 0) -> TaskScore:
    """Mean F1 of the two bags of words."""
    return score("token_f1", predictions, references, seed=seed)


def list_f1(predictions: Sequence[str], references: Sequence[str], *, seed: int = 0) -> TaskScore:
    """Mean F1 of the two sets of list entries, in any order."""
    return score("list_f1", predictions, references, seed=seed)


def bleu(predictions: Sequence[str], references: Sequence[str], *, seed: int = 0) -> TaskScore:
    """Corpus BLEU of sacrebleu."""
    return score("bleu", predictions, references, seed=seed)


def rouge_l(predictions: Sequence[str], references: Sequence[str], *, seed: int = 0) -> TaskScore:
    """Mean F1 of the longest common subsequence of words."""
    return score("rouge_l", predictions, references, seed=seed)


def edit_similarity(predictions: Sequence[str], references: Sequence[str], *, seed: int = 0) -> TaskScore:
    """Mean similarity of the two texts as sequences of characters."""
    return score("edit_similarity", predictions, references, seed=seed)


def sari(
    predictions: Sequence[str], references: Sequence[str], *, prompts: Sequence[str] | None = None, seed: int = 0
) -> TaskScore:
    """Mean SARI of simplifying the prompts."""
    return score("sari", predictions, references, prompts=prompts, seed=seed)


def box_accuracy(predictions: Sequence[str], references: Sequence[str]) -> TaskScore:
    """Share of boxes that overlap the reference by more than one half."""
    return score("box_accuracy", predictions, references)
