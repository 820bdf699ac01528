"""Writing systems without spaces between words, and the segmentation that the scorers use for a test set.

Which segmentation a test set gets depends on its references alone, never on what a model answers and never on which
packages are installed, so that all cells of a column of the accuracy matrix are measured in the same way on every machine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Literal


#: ``words``: words are separated by spaces and punctuation. ``characters``: a character of an unsegmented script is a
#: separate token, with its combining marks; all other text is split as for ``words``.
Segmentation = Literal["words", "characters"]
SEGMENTATIONS: tuple[Segmentation, ...] = ("words", "characters")

#: First words of the Unicode names of characters whose scripts need no spaces between words. Hangul is among them because
#: particles are attached to words: 폐렴이 holds the word 폐렴.
_HAN = ("CJK", "KANGXI", "BOPOMOFO", "IDEOGRAPHIC")
_OTHERS = (
    "HIRAGANA",
    "KATAKANA",
    "KATAKANA-HIRAGANA",
    "HANGUL",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "JAVANESE",
)
#: Share of references with kana, Hangul, Thai, Lao, Khmer, Myanmar or Tibetan letters above which BLEU takes characters.
_CHARACTER_SHARE = 0.1


def script(character: str) -> str:
    """``han``, ``other`` (a further unsegmented script) or ``spaced``, of one letter; ``spaced`` for anything else.

    Args:
        character: One character.
    """
    if character < "\u0e00":  # everything before Thai: Latin, Greek, Cyrillic, Arabic, Devanagari, ...
        return "spaced"
    if unicodedata.category(character)[0] not in "LMN" and character not in "々〇":
        return "spaced"
    block = unicodedata.name(character, "").split(" ", 1)[0]
    if block in _HAN:
        return "han"
    return "other" if block in _OTHERS else "spaced"


def is_unsegmented(character: str) -> bool:
    """Whether a character belongs to a script that needs no spaces between words."""
    return script(character) != "spaced"


def segmentation(references: Iterable[str]) -> Segmentation:
    """How the texts of a test set are split: ``characters`` if any reference holds an unsegmented character.

    Args:
        references: The references of the whole test set.
    """
    return "characters" if any(is_unsegmented(c) for text in references for c in text) else "words"


def bleu_tokenizer(references: Iterable[str]) -> str:
    """The tokenizer of sacrebleu for a test set.

    ``char`` if at least a tenth of the references hold letters of an unsegmented script other than Chinese characters
    (kana, Hangul, Thai, Lao, Khmer, Myanmar, Tibetan), else ``zh`` if any holds a Chinese character, else sacrebleu's
    default ``13a``. ``zh`` splits Latin text as ``13a`` does.

    Args:
        references: The references of the whole test set.
    """
    total = others = han = 0
    for text in references:
        kinds = {script(character) for character in text}
        total += 1
        others += "other" in kinds
        han += "han" in kinds
    if others and others >= _CHARACTER_SHARE * total:
        return "char"
    return "zh" if han else "13a"
