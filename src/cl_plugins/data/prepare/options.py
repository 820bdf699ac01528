"""Options of multiple-choice questions: drawn with a seed, independent of the order of the work."""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Sequence

from ...evaluation.scorers.text import normalise


#: Version of the way options are drawn and written. Raise it when the same seed gives other options.
VERSION = 1


def rng_for(seed: int, what: str, version: int = VERSION) -> random.Random:
    """A generator that depends on the seed and on what is drawn, never on what was drawn before.

    Args:
        seed: The user's seed.
        what: Stream, task, and the id of the record, for example ``medical_cl/sur/01/000006``.
        version: Version of the drawing.
    """
    digest = hashlib.sha256(f"{version}\0{seed}\0{what}".encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


def build_options(
    correct: str,
    pool: Sequence[str],
    count: int,
    rng: random.Random,
    fixed: Sequence[str] = (),
) -> tuple[tuple[str, ...], str]:
    """Options in random order: the fixed ones, the right one, and as many from the pool as are needed.

    No two options are equal after normalisation (case, punctuation, articles), so that exactly one is right.

    Args:
        correct: The right answer; may be one of ``fixed``.
        pool: Where wrong answers are drawn from.
        count: Options wanted; fewer only if the pool is too small.
        rng: From `rng_for`.
        fixed: Options that every question has.

    Returns:
        The options, and the letter of the right one.

    Raises:
        ValueError: Fewer than two options can be made, or there are more than 26.
    """
    if count > len(string.ascii_uppercase):
        raise ValueError(f"{count} options; there are {len(string.ascii_uppercase)} letters")
    chosen: dict[str, str] = {normalise(correct): correct}
    for text in fixed:
        chosen.setdefault(normalise(text), text)
    wrong: dict[str, str] = {}
    for text in pool:
        key = normalise(text)
        if key and key not in chosen:
            wrong.setdefault(key, text)
    # Sorted, so that the order of the pool does not matter.
    candidates = sorted(wrong.values())
    options = [*chosen.values(), *rng.sample(candidates, max(0, min(count - len(chosen), len(candidates))))]
    if len(options) < 2:
        raise ValueError("no wrong answer to choose from")
    rng.shuffle(options)
    return tuple(options), string.ascii_uppercase[options.index(correct)]


def with_options(question: str, options: Sequence[str]) -> str:
    """A question, its lettered options, and how to answer.

    Args:
        question: The question.
        options: Texts in the order A, B, C, ...
    """
    lines = [f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([question, *lines, "Answer with the letter of the right option."])
