"""Text normalisation shared by the strict scorers."""

from __future__ import annotations

import re
import unicodedata

from .segmentation import Segmentation, is_unsegmented


#: Punctuation that may end an answer without being part of it (after NFKC): Latin, CJK, Arabic, Devanagari, Khmer,
#: Myanmar and Tibetan.
TERMINAL = ".,;:!?。、؟،؛।॥។៕၊။།"
#: What belongs to a number between two digits; the last is the stroke that NFKC makes of ½.
_INSIDE = ".,\u2044"
_NUMBER = re.compile(rf"\d+(?:[{_INSIDE}]\d+)+")
_MINUS = "-\u2212\u2013"
#: What may stand before a sign or a leading point. Behind anything else they separate: post-5, 3-5, No.5.
_BEFORE = frozenset(" ([{<>=≤≥≈~±:;,/|*^$€£¥\"'“‘«„、。")


def normalise(text: str) -> str:
    """The form in which two answers are compared.

    Unicode NFKC, case-fold, outer spaces stripped, inner spaces collapsed, terminal punctuation stripped. An answer
    that is nothing but punctuation is kept, so that ``"?"`` does not become the empty answer.
    """
    # Case-folding can undo NFKC, hence the second pass (Unicode, "NFKC_Casefold").
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    collapsed = " ".join(folded.split())
    return collapsed.rstrip(TERMINAL + " ") or collapsed


def tokens(text: str, segmentation: Segmentation = "words") -> list[str]:
    """Words and numbers of the normalised text; ``3.5``, ``-5`` and ``.5`` are one token each (`number_start`).

    A text without any (``"+"``) is one token itself, so that different signs differ; the empty text has none.

    Args:
        text: The text.
        segmentation: With ``characters`` every character of an unsegmented script is a token: ``CT显示`` has three.
    """
    normal = normalise(text)
    found: list[str] = []
    start, end = 0, len(normal)
    while start < end:
        if not _is_word(normal[start]):
            start += 1
            continue
        number = _NUMBER.match(normal, start)
        stop = number.end() if number else start + 1
        single = segmentation == "characters" and is_unsegmented(normal[start])
        while not number and stop < end and _is_word(normal[stop]):
            if not _is_mark(normal[stop]) and (
                single or (segmentation == "characters" and is_unsegmented(normal[stop]))
            ):
                break
            stop += 1
        word = normal[number_start(normal, start) : stop]
        found.append("-" + word[1:] if word[0] in _MINUS else word)
        start = stop
    return found or ([normal] if normal else [])


def contains_words(text: str, part: str, segmentation: Segmentation = "words") -> bool:
    """Whether `part` occurs in `text` as whole words; both already normalised.

    ``no`` is not in ``not visible`` and ``1`` is neither in ``10`` nor in ``1.5``, ``-1`` or ``.1``. An empty part is contained only
    in an empty text. With ``characters`` a word ends at every character of an unsegmented script: ``有肺炎`` holds
    ``肺炎``.
    """
    if not part:
        return not text
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        whole = _is_edge(text, start - 1, start, -1, segmentation) and _is_edge(text, end, end - 1, 1, segmentation)
        if whole and _same_number(text, start, part):
            return True
        start = text.find(part, start + 1)
    return False


def starts_with_words(text: str, part: str, segmentation: Segmentation = "words") -> bool:
    """Whether `text` begins with `part`, and a word ends there; both already normalised.

    ``no`` begins ``no, yes`` but neither ``not visible`` nor ``there is no tumour``. Only an empty text begins with an
    empty part.
    """
    if not part:
        return not text
    return text.startswith(part) and _is_edge(text, len(part), len(part) - 1, 1, segmentation)


def number_start(text: str, digit: int) -> int:
    """Where the number begins whose first digit is at a place: a sign and a leading point belong to it.

    They do where a text, a bracket or a word after a space begins with them. A hyphen in a word or a range and a full stop behind a
    word do not: the numbers of ``post-5``, ``3-5`` and ``No.5`` begin with their digits.

    Args:
        text: The normalised text.
        digit: The place; of any other character than a digit it is returned as it is.
    """
    if not text[digit].isdigit():
        return digit
    point = digit - 1 if digit and text[digit - 1] == "." else digit
    sign = point - 1 if point and text[point - 1] in _MINUS else point
    for begin in (sign, point):
        if begin < digit and (begin == 0 or text[begin - 1] in _BEFORE):
            return begin
    return digit


def _same_number(text: str, start: int, part: str) -> bool:
    """Whether a number at the beginning of `part` is the whole number that stands there in `text`."""
    first = next((place for place, character in enumerate(part[:3]) if character.isdigit()), None)
    if first is None or number_start(part, first) > 0:
        return True
    return number_start(text, start + first) == start


def _is_edge(text: str, outside: int, inside: int, step: int, segmentation: Segmentation) -> bool:
    """Whether a word ends between the neighbouring positions `inside` and `outside` (which lies in direction `step`)."""
    if not 0 <= outside < len(text) or not _is_word(text[inside]):
        return True
    if _is_mark(text[max(outside, inside)]):
        return False  # a combining mark belongs to the character before it
    if _is_word(text[outside]):
        return segmentation == "characters" and (is_unsegmented(text[outside]) or is_unsegmented(text[inside]))
    beyond = outside + step
    # A dot, comma or stroke between digits belongs to the number.
    inside_number = text[inside].isdigit() and text[outside] in _INSIDE and 0 <= beyond < len(text)
    return not (inside_number and text[beyond].isdigit())


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_" or _is_mark(character)


def _is_mark(character: str) -> bool:
    """Whether a character is a combining mark, such as a Thai or Devanagari vowel sign."""
    return not character.isascii() and unicodedata.category(character)[0] == "M"
