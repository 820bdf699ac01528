"""Numbers and names as text, escaped for Markdown, LaTeX and the terminal."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator


MISSING = "–"
MINUS = "−"
ELLIPSIS = "…"
REPLACED = "�"  # stands for a character that shows nothing and does something

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    MINUS: "$-$",
    MISSING: "--",
    ELLIPSIS: r"\dots{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    "Δ": r"$\Delta$",
    REPLACED: "?",
}
_CODE = re.compile(r"(?<!`)`([^`\s](?:[^`\n]*[^`\s])?)`(?!`)")
_UNSEEN = frozenset(
    {"Cc", "Cs", "Co", "Cn"}
)  # control characters, lone surrogates, and what Unicode has not given out
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they turn around what follows
_ASCII = {
    MINUS: "-",
    MISSING: "-",
    ELLIPSIS: "..",
    "±": "+-",
    "†": "!",
    "‡": "#",
    "§": "~",
    "×": "x",
    "→": "->",
    "Δ": "diff.",
}


def number(value: float | None, decimals: int = 2) -> str:
    """A number with a real minus sign; an en dash where there is none; never ``-0.00``."""
    if value is None:
        return MISSING
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def signed(value: float | None, decimals: int = 2) -> str:
    """A difference: `number` with a plus sign where it is above 0 as it is shown."""
    shown = number(value, decimals)
    return f"+{shown}" if value is not None and float(f"{value:.{decimals}f}") > 0 else shown


def interval(ends: tuple[float, float] | None) -> str:
    """A 95 % interval as ``[lo, hi]`` with one decimal, or nothing."""
    return f"[{number(ends[0], 1)}, {number(ends[1], 1)}]" if ends is not None else ""


def tex(text: str) -> str:
    r"""Escape a name for LaTeX text mode.

    A line that ends with ``\\\\`` takes ``[...]`` or ``*`` at the start of the next one for its argument.
    """
    escaped = "".join(_TEX.get(char, char) for char in one_line(text))
    return f"{{}}{escaped}" if escaped.lstrip().startswith(("[", "*")) else escaped


def tex_prose(text: str) -> str:
    """Escape a sentence for LaTeX text mode; what it has between back-ticks is set as code."""
    return "".join(f"\\texttt{{{tex(part)}}}" if is_code else tex(part) for part, is_code in spans(text))


class Markdown(str):
    """Text that is Markdown already; everything else is escaped where a template puts it in (`writing.render`)."""

    __slots__ = ()


def markdown(text: str) -> Markdown:
    """Escape a name for Markdown: for a cell of a table, a heading or a line of text.

    No HTML of it stays live, no entity is resolved, and no line becomes a heading, a list or a quotation.
    """
    escaped = re.sub(r"^(\s*)([#+=-])", r"\1\\\2", markdown_inside(text))
    return Markdown(re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", escaped))


def markdown_inside(text: str) -> Markdown:
    """Escape a text for Markdown that other text of the same line precedes: signs that open a line need no escape."""
    escaped = re.sub(r"([\\`*_|<>\[\]~$])", r"\\\1", one_line(text))
    return Markdown(re.sub(r"&(?=#?\w+;)", r"\\&", escaped))


def strong(text: str) -> Markdown:
    """A text in bold in Markdown; four asterisks with nothing between them would be a rule across the page."""
    return _bold(markdown_inside(text))


def prose(text: str) -> Markdown:
    """Escape a sentence for Markdown; what it has between back-ticks becomes a code span."""
    first, *others = spans(text)
    start = Markdown(_span(*first)) if first[1] else markdown(first[0])
    return Markdown("".join([start, *(_span(*part) for part in others)]))


def strong_prose(text: str) -> Markdown:
    """A sentence in bold in Markdown, with code spans."""
    return _bold("".join(_span(*part) for part in spans(text)))


def spans(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a sentence, and whether each stands between back-ticks: ``"a `b` c"`` has three. There is at least one.

    A back-tick without a partner, and several in a row, are text.
    """
    place = 0
    for match in _CODE.finditer(text):
        if match.start() > place:
            yield text[place : match.start()], False
        yield match[1], True
        place = match.end()
    if place < len(text) or not text:
        yield text[place:], False


def _bold(shown: str) -> Markdown:
    return Markdown(f"**{shown.strip()}**" if shown.strip() else "")


def _span(text: str, is_code: bool) -> str:
    return f"`{one_line(text)}`" if is_code else markdown_inside(text)


def code(text: str) -> Markdown:
    """A code span in Markdown, also for a cell of a table: the column separator and the back-tick would end it."""
    inner = one_line(text).replace("|", "\\|").replace("`", "'")
    return Markdown(f"`{inner}`")


def fenced(text: str, language: str = "") -> Markdown:
    """A block of code in Markdown, whose fence is longer than any row of back-ticks in it.

    Args:
        text: The code.
        language: Its language, as this package names it.
    """
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{visible(text)}\n{fence}")


def plain_ascii(text: str) -> str:
    """The text in ASCII: signs replaced by their plain form, other characters by escapes."""
    return "".join(_ASCII.get(char, char) for char in text).encode("ascii", "backslashreplace").decode("ascii")


def columns(text: str) -> int:
    """How many columns a terminal needs for the text (wide characters take two, combining ones none)."""
    from rich.cells import cell_len

    return cell_len(text)


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a text that needs more than ``width`` columns; start and end tell names apart."""
    if columns(text) <= width:
        return text
    head, tail = text, ""
    keep = max(1, width - 1)
    while head and columns(head) > (keep + 1) // 2:
        head = head[:-1]
    for char in reversed(text):
        if columns(tail) + columns(char) > keep // 2:
            break
        tail = char + tail
    return f"{head}{ELLIPSIS}{tail}"


def wrap(text: str, width: int) -> str:
    """The text in lines of at most ``width`` characters; lines stay apart, and words whole."""
    lines = (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
    return "\n".join("\n".join(line) for line in lines)


def pad(text: str, width: int, right: bool) -> str:
    """Fill with spaces to ``width`` terminal columns."""
    gap = " " * max(0, width - columns(text))
    return gap + text if right else text + gap


def slug(parts: Iterable[str]) -> str:
    """An ASCII word for labels and anchors; characters that fit nowhere become their code point."""
    joined = unicodedata.normalize("NFKD", "-".join(parts))
    plain = "".join(
        char if char.isascii() else f"u{ord(char):x}" for char in joined if not unicodedata.combining(char)
    )
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def duration(seconds: float) -> str:
    """Seconds in the units one would say."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes in binary units."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = 0
    while count >= 1024 and step < len(units) - 1:
        count /= 1024
        step += 1
    return f"{count:.0f} B" if step == 0 else f"{count:.2f} {units[step]}"


def listing(words: Iterable[str]) -> str:
    """``a, b and c``."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def said_once(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes without repetition; those that differ in their first sentence only become one: ``a; b. The same for both``."""
    found: dict[tuple[str, bool], list[str]] = {}
    for note in dict.fromkeys(notes):
        first, _, rest = note.partition(". ")
        found.setdefault((rest or note, bool(rest)), []).append(first)
    return tuple(f"{'; '.join(firsts)}. {rest}" if several else rest for (rest, several), firsts in found.items())


def one_line(text: str) -> str:
    """The text with every run of white space made one space, and control characters made visible."""
    return visible(re.sub(r"\s+", " ", text))


def visible(text: str) -> str:
    """The text with `REPLACED` for control characters; line ends and tabs stay."""
    if text.isprintable():
        return text
    plain = text.replace("\r\n", "\n")
    return "".join(
        REPLACED if (unicodedata.category(char) in _UNSEEN and char not in "\n\t") or char in _TURNING else char
        for char in plain
    )
