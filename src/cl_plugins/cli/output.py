"""How the commands print: readable at 80 columns, in plain ASCII where the terminal knows nothing else."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from ..base.errors import same_cause_once
from ..base.printable import printable, printable_json
from ..report import tables, text
from ..report.coarse_picture import NUMBERED


if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

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


def emit(line: str | Text = "", stream: IO[str] | None = None) -> None:
    """Print text: control characters as escapes, in ASCII if need be, styles only on a terminal."""
    stream = stream or sys.stdout
    if plain(stream) and not str(line).isascii():
        line = text.plain_ascii(printable(str(line)))
    if not colour(stream):
        print(printable(str(line)), file=stream)
        return
    from rich.console import Console
    from rich.text import Text

    safe = printable(str(line))
    shown = line if isinstance(line, Text) and line.plain == safe else Text(safe)
    Console(file=stream, highlight=False, soft_wrap=True, force_terminal=True).print(shown)


def bold(line: str) -> Text:
    """Text that is bold on a terminal; ``+`` joins it with more."""
    from rich.text import Text

    return Text().append(printable(line), style="bold")


def heading(title: str, detail: str = "") -> None:
    """An empty line, a title in bold, and a remark."""
    emit()
    emit(bold(title) + (printable(f"  {detail}") if detail else ""))


def show_styled(lines: str) -> None:
    """Print what `report` made for the terminal: already safe, with styles where `colour` allowed them."""
    print(lines)


def show_report(run_dir: Path, original: Path | None = None) -> None:
    """Write the report of a run, which is read once, and print its table.

    Args:
        run_dir: The run.
        original: Another directory with the same answers scored otherwise, see `write_report`.
    """
    from ..base.files import write_bytes
    from ..report import read_run, terminal_table, write_report

    run = read_run(run_dir)
    write_report(run, write_bytes, original=original)
    show_styled(terminal_table(run, width(), colour(), plain(), original=original))
    emit()
    emit(f"report: {run_dir / 'report.html'}")


def names(given: Sequence[str], between: str, many: str) -> str:
    """Names of tasks in a line, or a shorter text where there are too many to read.

    Args:
        given: The names.
        between: What stands between two of them.
        many: The shorter text.
    """
    return between.join(given) if len(given) <= NUMBERED else many


def tested(given: Sequence[str]) -> str:
    """The tests of a row; of many tests how many they are, the first and the last."""
    return names(given, ", ", f"{len(given)} tests, {given[0]} to {given[-1]}")


def numbers(table: tables.Table) -> None:
    """Print a table of texts on the left and numbers on the right."""
    show_styled(tables.to_terminal(table, width(), colour(), plain()))


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
    ascii = plain()

    def shown(value: str) -> str:
        value = printable(str(value))
        return text.plain_ascii(value) if ascii else value

    head = [shown(name) for name in head]
    cut = [[text.shorten(shown(v), limit) if i < count - 1 else shown(v) for i, v in enumerate(row)] for row in rows]
    widths = [max([text.columns(head[i]), *(text.columns(row[i]) for row in cut)]) for i in range(count - 1)]
    last = max(16, width() - indent - sum(w + 2 for w in widths))
    cells = [[*row[:-1], "\n".join(wrap(row[-1], last))] for row in cut]
    show_styled(tables.grid(head, cells, indent=indent, right=flush, colour=colour()))


def wrap(value: str, columns_: int) -> list[str]:
    """Lines of at most ``columns_`` columns; line breaks in the text stay, and words are not torn apart."""
    lines: list[str] = []
    for line in printable(value).rstrip("\n").split("\n"):
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
    emit(bold(f"cl-plugins {command}: {'a problem' if count == 1 else f'{count} problems'}"), stream)
    show_problems(problems, stream)


def show_problems(problems: Iterable[Any], stream: IO[str] | None = None, indent: int = 2) -> None:
    """Print `Problem` objects, each as place, fault and remedy; what is the same in several places is said once."""
    space = " " * indent
    for problem in same_cause_once(problems):
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
    print(printable_json(json.dumps(value, indent=2, ensure_ascii=plain(), allow_nan=False)))


def size(count: float) -> str:
    """Bytes in binary units."""
    return text.size(count)
