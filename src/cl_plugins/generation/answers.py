"""What a backend returns for each prompt: the text, and whether the model would have continued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract.backend import Answer


def read_answers(
    ids: Sequence[Sequence[int]] | Any,
    tokenizer: Any,
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    thought_words: tuple[str, str] | None = None,
) -> list[Answer]:
    """Texts of generated tokens.

    Args:
        ids: Token ids of each answer, closing and padding tokens included: lists, or a tensor (rows, length).
        tokenizer: The tokenizer.
        max_new_tokens: Longest answer in tokens.
        eos_token_ids: Tokens that end an answer.
        thought_words: See `decode`.
    """
    ends = set(eos_token_ids)
    rows: list[list[int]] = ids.tolist() if hasattr(ids, "tolist") else [list(row) for row in ids]
    texts = decode(rows, tokenizer, thought_words)
    return [
        Answer(text, len(row) >= max_new_tokens and ends.isdisjoint(row))
        for text, row in zip(texts, rows, strict=True)
    ]


def decode(rows: Sequence[Sequence[int]], tokenizer: Any, thought_words: tuple[str, str] | None = None) -> list[str]:
    """Texts without special tokens.

    Some templates enclose thoughts in special tokens, which would vanish and leave thought and answer as one text; there
    the thought is given between ``<think>`` and ``</think>``.

    Args:
        rows: Token ids of each text.
        tokenizer: The tokenizer.
        thought_words: What the template writes before and behind a thought.
    """
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    special = [token for token in tokenizer.all_special_tokens if token]
    if thought_words is None or not any(token in thought_words[1] for token in special):
        return texts
    opening, closing = (word.strip() for word in thought_words)
    for place, row in enumerate(rows):
        thought, found, answer = tokenizer.decode(row, skip_special_tokens=False).rpartition(closing)
        if found:
            inside = thought.rpartition(opening)[2] if opening in thought else thought
            for token in special:
                inside, answer = inside.replace(token, ""), answer.replace(token, "")
            texts[place] = f"<think>{inside}</think>{answer}"
    return texts
