"""Options of multiple-choice items: reading them from a prompt, and reading a choice from an answer."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from .text import normalise


#: An answer that begins with a letter (after NFKC): ``B``, ``B.``, ``(B)``, ``B: red``, ``B、``.
LETTER = re.compile(r"^\s*\(?([A-Z])\)?(?:[.):,。、\s]|$)")
#: Nothing but a letter.
_BARE = re.compile(r"\s*\(?([A-Z])\)?[.):,。、]?\s*")
#: A letter that is also a word, with a word behind it on the same line: "A white cell", "I see". What makes it a letter
#: again is a verb that cannot follow the article or the pronoun.
_WORD = re.compile(r"^\s*[AI][^\S\n]+(?!(?:is|because|since|would|seems|matches)\b)\w")
_REFERENCE = re.compile(r"\(?([A-Z])\)?[.):]?")

# One pattern per style, because the options of one item are all written in the same style.
_STYLES = (
    r"\(([A-Z])\)",
    r"(?<![\w(])([A-Z])\)",
    r"(?<![\w.])([A-Z])\.(?![A-Z]\.)",
    r"(?<!\w)([A-Z]):",
)
_OWN_LINES = tuple(re.compile(r"^[^\S\n]*" + style, re.MULTILINE) for style in _STYLES)
_INLINE = tuple(re.compile(style) for style in _STYLES)
# An instruction that follows the last option on the same line is no part of it. After a full stop any imperative will
# do; without one only what no option is likely to hold.
_INSTRUCTION = re.compile(
    r"[.;:!?,]\s+(?=(?:Answer|Please|Choose|Select|Respond|Reply|Give|Only|Output|Pick|Return|Write|Provide)\b)"
    r"|\s(?=(?:Answer (?:with|using|by|the|only|directly)|Please|Choose|Select)\b)"
)
_JOINT = re.compile(r"(?:[,;]\s*(?:or|and)|\sor)$")


def parse_options(prompt: str) -> tuple[str, ...] | None:
    """Read the options from the text of a user turn.

    Understood are ``A. red``, ``A) red``, ``(A) red`` and ``A: red``, each on its own line or one after the other in a
    line, in one style throughout and lettered A, B, C, ... without a gap. Options on own lines go before inline
    ones, a longer list before a shorter one, a later list before an earlier one. The last inline option ends with
    the line or where an instruction such as ``Answer with ...`` begins.

    Args:
        prompt: The text of the user turn.

    Returns:
        The texts of the options in order, or None when no list of at least two is found.
    """
    for own_lines in (True, False):
        best: tuple[str, ...] = ()
        for style in _OWN_LINES if own_lines else _INLINE:
            found = _longest(prompt, style, own_lines)
            if len(found) > len(best):
                best = found
        if best:
            return best
    return None


def _longest(prompt: str, style: re.Pattern[str], own_lines: bool) -> tuple[str, ...]:
    """The longest complete list in one style; the later one of equals."""
    markers = [match for match in style.finditer(prompt) if own_lines or _stands_alone(prompt, match)]
    best: tuple[str, ...] = ()
    for first, match in enumerate(markers):
        if match[1] != "A":
            continue
        chain = [match]
        for marker in markers[first + 1 :]:
            if len(chain) < 26 and marker[1] == string.ascii_uppercase[len(chain)]:
                chain.append(marker)
            elif marker[1] == "A":
                break  # another list begins
        if len(chain) >= max(2, len(best)):
            texts = _texts(prompt, chain, own_lines)
            best = texts if all(texts) else best
    return best


def _stands_alone(prompt: str, match: re.Match[str]) -> bool:
    """Whether an inline option may begin here."""
    before = prompt[match.start() - 1] if match.start() else " "
    after = prompt[match.end()] if match.end() < len(prompt) else " "
    return (before.isspace() or before in ",;:?") and (after.isspace() or match[0].endswith(")"))


def _texts(prompt: str, chain: Sequence[re.Match[str]], own_lines: bool) -> tuple[str, ...]:
    """The texts between the markers of a list."""
    texts = []
    for index, match in enumerate(chain):
        last = index == len(chain) - 1
        end = len(prompt) if last else chain[index + 1].start()
        text = prompt[match.end() : end]
        if own_lines or last:
            text = text.lstrip(" \t").split("\n", 1)[0]
        if not own_lines:
            text = _INSTRUCTION.split(text, maxsplit=1)[0] if last else _JOINT.sub("", text.rstrip())
        texts.append(text.strip().rstrip(",;").rstrip())
    return tuple(texts)


def parse_choice(prediction: str, options: Sequence[str] | None) -> str | None:
    """Read the letter that an answer chooses.

    A letter alone (``B``, ``(B)``, ``B.``) counts if it names an option; else the whole answer, normalised, counts if it
    equals the text of exactly one option; else a leading letter (`LETTER`) counts. The words "A" and "I" at the beginning
    of a sentence are no letters ("A benign tumour."), unless what follows is the text of that option. A sentence that
    merely mentions an option is not a choice: "no sign of a tumour" does not choose "tumour".

    Args:
        prediction: The answer.
        options: The texts of the options; None when unknown, then only a letter counts.

    Returns:
        The letter, or None when the answer is invalid.
    """
    text = unicodedata.normalize("NFKC", prediction)
    bare = _BARE.fullmatch(text)
    if bare and _names(bare[1], options):
        return bare[1]
    by_text = _by_text(text, options)
    if by_text is not None:
        return by_text
    match = LETTER.match(text)
    if match is None or not _names(match[1], options):
        return None
    if _WORD.match(text):
        following = text[match.end() :].split("\n", 1)[0]
        return match[1] if options and normalise(following) == normalise(options[_position(match[1])]) else None
    return match[1]


def _names(letter: str, options: Sequence[str] | None) -> bool:
    """Whether there is an option with this letter."""
    return options is None or _position(letter) < len(options)


def parse_reference(reference: str, options: Sequence[str] | None) -> str | None:
    """The letter of a reference, which may be the letter (``B``, ``(B)``), the option's text, or both (``B. red``).

    Where an option's text is itself the letter of an option, the letter is meant.

    Returns:
        The letter, or None when the reference names no option.
    """
    letter = _REFERENCE.fullmatch(reference.strip())
    if letter and (options is None or _position(letter[1]) < len(options)):
        return letter[1]
    by_text = _by_text(reference, options)
    if by_text:
        return by_text
    both = LETTER.match(reference)
    if both and options is not None and _position(both[1]) < len(options):
        rest = reference[both.end() :]
        return both[1] if normalise(rest) == normalise(options[_position(both[1])]) else None
    return None


def _by_text(answer: str, options: Sequence[str] | None) -> str | None:
    """The letter of the only option whose normalised text equals the answer."""
    normal = normalise(answer)
    equal = [index for index, option in enumerate(options or ()) if normal and normalise(option) == normal]
    return string.ascii_uppercase[equal[0]] if len(equal) == 1 and equal[0] < 26 else None


def _position(letter: str) -> int:
    return string.ascii_uppercase.index(letter)
