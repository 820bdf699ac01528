"""How the commands print: readable at 80 columns, in plain ASCII where the terminal knows nothing else."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from ..report import tables, text


WIDEST = 100  # longer lines are hard to read


def width() -> int:
    """Columns to print in."""
    return max(40, min(shutil.get_terminal_size((80, 24)).columns, WIDEST))


def colour(stream: IO[str] | None = None) -> bool:
    """Whether bold and dim may be used: a terminal, and ``NO_COLOR`` not set."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain(stream: IO[str] | None = None) -> bool:
    """Whether only ASCII can be printed."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "│─┼–−…→".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def emit(line: str = "", stream: IO[str] | None = None) -> None:
    """Print text, in ASCII if need be."""
    stream = stream or sys.stdout
    print(text.plain_ascii(line.replace("→", "->")) if plain(stream) and not line.isascii() else line, file=stream)


def bold(line: str, stream: IO[str] | None = None) -> str:
    """Bold on a terminal."""
    return f"\x1b[1m{line}\x1b[0m" if colour(stream) else line


def heading(title: str, detail: str = "") -> None:
    """An empty line, a title in bold, and what belongs beside it."""
    emit()
    emit(bold(title) + (f"  {detail}" if detail else ""))


def numbers(table: tables.Table) -> None:
    """Print a table of texts on the left and numbers on the right."""
    emit(tables.to_terminal(table, width(), colour(), plain()))


def pairs(items: Iterable[tuple[str, str]], indent: int = 2) -> None:
    """Print names with their values; long values are wrapped under themselves."""
    items = list(items)
    left = max((len(name) for name, _ in items), default=0) + 2
    for name, value in items:
        lines = wrap(value, width() - indent - left)
        emit(" " * indent + name.ljust(left) + lines[0])
        for line in lines[1:]:
            emit(" " * (indent + left) + line)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], indent: int = 2, right: Iterable[int] = ()) -> None:
    """Print columns of text; the last one is wrapped, the others are cut in the middle where they are too long.

    Args:
        head: Names of the columns; empty names print no head.
        rows: The texts.
        indent: Spaces before each line.
        right: Columns that are set flush right.
    """
    flush = set(right)
    count = len(head)
    limit = max(8, (width() - indent) // 3)
    cut = [[text.shorten(str(v), limit) if i < count - 1 else str(v) for i, v in enumerate(row)] for row in rows]
    widths = [max([text.columns(head[i]), *(text.columns(row[i]) for row in cut)]) for i in range(count - 1)]
    last = max(16, width() - indent - sum(w + 2 for w in widths))
    lines: list[tuple[Sequence[str], bool]] = [(row, False) for row in cut]
    if any(head):
        lines.insert(0, (list(head), True))
    for row, strong in lines:
        cells = [text.pad(row[i], widths[i], right=i in flush) for i in range(count - 1)]
        wrapped = wrap(row[-1], last)
        first = "  ".join([*cells, wrapped[0]]).rstrip()
        emit(" " * indent + (bold(first) if strong else first))
        for more in wrapped[1:]:
            emit(" " * (indent + sum(w + 2 for w in widths)) + more)


def wrap(value: str, columns_: int) -> list[str]:
    """Lines of at most ``columns_`` columns; line breaks in the text stay, and words are not torn apart."""
    lines: list[str] = []
    for line in value.splitlines() or [""]:
        start = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, max(16, columns_), subsequent_indent=start, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return lines


def show_error(command: str, error: Exception) -> None:
    """Print an error to standard error: every problem with its place and what to do about it."""
    stream = sys.stderr
    problems = getattr(error, "problems", None)
    if not problems:
        message = str(error) or type(error).__name__
        first, *rest = wrap(f"cl-plugins {command}: {message}", width())
        emit(first, stream)
        for line in rest:
            emit(f"  {line}", stream)
        return
    count = len(problems)
    emit(bold(f"cl-plugins {command}: {'a problem' if count == 1 else f'{count} problems'}", stream), stream)
    show_problems(problems, stream)


def show_problems(problems: Iterable[Any], stream: IO[str] | None = None, indent: int = 2) -> None:
    """Print `Problem` objects, each as place, fault and remedy."""
    space = " " * indent
    for problem in problems:
        emit(f"{space}{problem.where}", stream)
        for line in wrap(problem.what, width() - indent - 2):
            emit(f"{space}  {line}", stream)
        if problem.fix:
            first, *rest = wrap(problem.fix, width() - indent - 4)
            emit(f"{space}  → {first}", stream)
            for line in rest:
                emit(f"{space}    {line}", stream)


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print JSON and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=plain(), allow_nan=False))


def size(count: float) -> str:
    """Bytes in binary units."""
    return text.size(count)
