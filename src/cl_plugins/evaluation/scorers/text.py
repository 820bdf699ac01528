"""Text normalisation shared by the strict scorers."""

from __future__ import annotations

import re
import unicodedata


#: Punctuation that may end an answer without being part of it (after NFKC; the last two are CJK).
TERMINAL = ".,;:!?。、"
_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|\w+")


def normalise(text: str) -> str:
    """The form in which two answers are compared.

    Unicode NFKC, case-fold, outer spaces stripped, inner spaces collapsed, terminal punctuation stripped. An answer
    that is nothing but punctuation is kept, so that ``"?"`` does not become the empty answer.
    """
    # Case-folding can undo NFKC, hence the second pass (Unicode, "NFKC_Casefold").
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    collapsed = " ".join(folded.split())
    return collapsed.rstrip(TERMINAL + " ") or collapsed


def tokens(text: str) -> list[str]:
    """Words and numbers of the normalised text; ``3.5`` is one token.

    A text without any (``"+"``) is one token itself, so that different signs differ; the empty text has none.
    """
    normal = normalise(text)
    return _TOKEN.findall(normal) or ([normal] if normal else [])


def contains_words(text: str, part: str) -> bool:
    """Whether `part` occurs in `text` as whole words; both already normalised.

    ``no`` is not in ``not visible`` and ``1`` is neither in ``10`` nor in ``1.5``. An empty part is contained only
    in an empty text.
    """
    if not part:
        return not text
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        if _is_edge(text, start - 1, start, -1) and _is_edge(text, end, end - 1, 1):
            return True
        start = text.find(part, start + 1)
    return False


def starts_with_words(text: str, part: str) -> bool:
    """Whether `text` begins with `part`, and a word ends there; both already normalised.

    ``no`` begins ``no, yes`` but neither ``not visible`` nor ``there is no tumour``. Only an empty text begins with an
    empty part.
    """
    if not part:
        return not text
    return text.startswith(part) and _is_edge(text, len(part), len(part) - 1, 1)


def _is_edge(text: str, outside: int, inside: int, step: int) -> bool:
    """Whether a word ends between the neighbouring positions `inside` and `outside` (which lies in direction `step`)."""
    if not 0 <= outside < len(text) or not _is_word(text[inside]):
        return True
    if _is_word(text[outside]):
        return False
    beyond = outside + step
    # A dot or comma between digits belongs to the number.
    inside_number = text[inside].isdigit() and text[outside] in ".," and 0 <= beyond < len(text)
    return not (inside_number and text[beyond].isdigit())


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
