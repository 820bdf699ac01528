"""The training-free floor: the best score that one constant answer reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any


#: Constant answers that are tried where trying one costs a pass over the test set.
MAX_CANDIDATES = 200


def candidates(references: Sequence[str], limit: int | None = MAX_CANDIDATES) -> list[str]:
    """The distinct references, most frequent first, ties in order of appearance.

    Args:
        references: The references of the test set.
        limit: At most this number; None for all.
    """
    return [text for text, _ in Counter(references).most_common(limit)]


def best_constant(answers: Sequence[str], value: Callable[[str], float]) -> dict[str, Any]:
    """The answer with the highest value, as the two ``extra`` entries of a score; the first of equals wins.

    Args:
        answers: The constant answers to try, at least one.
        value: From an answer to the score it gets on the whole test set, 0-100.

    Returns:
        ``{"constant_baseline": score, "constant_answer": answer}``.
    """
    scores = [value(answer) for answer in answers]
    best = max(range(len(scores)), key=scores.__getitem__)
    return {"constant_baseline": scores[best], "constant_answer": answers[best]}
