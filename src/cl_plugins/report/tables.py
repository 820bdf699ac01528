"""One table type and the forms it is printed in: Markdown, LaTeX (booktabs) and the terminal.

The HTML form is a macro in ``templates/base.html.j2``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..base.printable import printable
from . import text


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: The text.
        detail: Smaller print next to it, such as an interval.
        strong: Whether it is set in bold.
        tint: 0-100 for a background from pale to full, or ``None`` for no background.
        code: Whether it is a formula or an identifier.
        mark: A sign before the text that the table's note explains.
    """

    text: str
    detail: str = ""
    strong: bool = False
    tint: float | None = None
    code: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table: texts on the left, numbers on the right.

    Attributes:
        head: Names of the columns.
        rows: Entries, as many in each row as there are columns.
        left: How many leading columns are text (set flush left); the others are numbers, flush right.
        rules: Indices of the rows that are followed by a rule.
        note: A sentence below the table.
        wrap: Indices of the columns whose texts are long.
        units: What the numbers of each column are, below its name; empty, or an entry (or None) per column.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    left: int = 1
    rules: frozenset[int] = frozenset()
    note: str = ""
    wrap: frozenset[int] = frozenset()
    units: tuple[str | None, ...] = ()

    def unit(self, column: int) -> str:
        """What the numbers of a column are; empty where that is not said."""
        return (self.units[column] or "") if self.units else ""


def to_markdown(table: Table) -> text.Markdown:
    """The table in GitHub's Markdown, names escaped."""

    def entry(cell: Entry) -> str:
        if cell.code and cell.text:
            return text.code(cell.text)
        shown = text.strong(cell.text) if cell.strong else text.markdown_inside(cell.text)
        return f"{text.markdown_inside(cell.mark)}{shown} {text.markdown_inside(cell.detail)}".strip()

    def name(index: int) -> str:
        unit = table.unit(index)
        return text.markdown_inside(f"{table.head[index]} ({unit})" if unit else table.head[index])

    marks = [":---" if index < table.left else "---:" for index in range(len(table.head))]
    lines: list[list[str]] = [[name(index) for index in range(len(table.head))], marks]
    lines += [[entry(cell) for cell in row] for row in table.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text.Markdown(f"{body}\n\n{text.prose(table.note)}" if table.note else body)


def to_tex(table: Table, caption: str, label: str, notes: Sequence[str] = ()) -> str:
    r"""The table as a LaTeX ``table`` environment with booktabs rules.

    Args:
        table: Entries' texts are escaped; details are left out.
        caption: LaTeX code.
        label: Label without its ``tab:``.
        notes: Sentences below the table in small print.

    Returns:
        The source; needs ``\usepackage{booktabs}``.
    """

    def entry(cell: Entry) -> str:
        shown = text.tex(cell.text)
        return text.tex(cell.mark) + (f"\\textbf{{{shown}}}" if cell.strong and shown else shown)

    width = len(table.head)
    note = f" {text.tex(table.note)}" if table.note else ""
    lines = [
        "% Needs \\usepackage{booktabs} in the preamble.",
        "\\begin{table}[t]",
        "\\centering",
        *(["\\small", "\\setlength{\\tabcolsep}{4pt}"] if width > 7 else []),
        f"\\caption{{{caption}{note}}}",
        f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{@{{}}{'l' * table.left}{'r' * (width - table.left)}@{{}}}}",
        "\\toprule",
        " & ".join(text.tex(name) for name in table.head) + r" \\",
        *([" & ".join(_small(table.unit(index)) for index in range(width)) + r" \\"] if table.units else []),
        "\\midrule",
    ]
    for index, row in enumerate(table.rows):
        lines.append(" & ".join(entry(cell) for cell in row) + r" \\")
        if index in table.rules and index + 1 < len(table.rows):
            lines.append("\\midrule")
    lines += ["\\bottomrule", "\\end{tabular}"]
    if notes:
        told = [f"{text.tex_prose(sentence)}\\par" for sentence in notes]
        lines += ["", "\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", *told, "\\end{minipage}"]
    lines += ["\\end{table}", ""]
    return "\n".join(lines)


def _small(unit: str) -> str:
    """A unit below the name of a column in LaTeX."""
    return f"{{\\footnotesize {text.tex(unit)}}}" if unit else ""


def to_terminal(table: Table, width: int, colour: bool = False, ascii: bool = False, name_width: int = 16) -> str:
    """The table for a terminal of ``width`` columns.

    Long names are shortened in the middle. Columns that do not fit side by side go into further blocks, each with
    the leading text columns again.

    Args:
        table: Details are left out.
        width: Columns of the terminal.
        colour: Whether to use ANSI bold and dim.
        ascii: Whether only ASCII may be used.
        name_width: The widest a name in the head of a number column may be.

    Returns:
        Lines without a final newline.
    """

    def shown(content: str, limit: int) -> str:
        content = printable(text.one_line(content))
        if not ascii:
            return text.shorten(content, limit)
        # An escape is longer than what it stands for, and must not be cut in two.
        fits = (text.plain_ascii(text.shorten(content, room)) for room in range(limit, 0, -1))
        return next((short for short in fits if len(short) <= limit), "?")

    first = max(17, min(40, 2 * width // 5))

    def name(index: int) -> str:
        limit = name_width if index >= table.left else first
        lines = [table.head[index], *([table.unit(index)] if table.units else [])]
        return "\n".join(shown(line, limit) for line in lines)

    head = [name(index) for index in range(len(table.head))]
    body = [
        [shown(cell.mark + cell.text, first if index < table.left else width) for index, cell in enumerate(row)]
        for row in table.rows
    ]
    widths = [
        max(text.columns(line) for entry in (head[index], *(row[index] for row in body)) for line in entry.split("\n"))
        for index in range(len(head))
    ]
    fixed = sum(widths[index] + _GAP for index in range(table.left))
    blocks: list[list[int]] = [[]]
    for index in range(table.left, len(head)):
        used = fixed + sum(widths[other] + _GAP for other in blocks[-1])
        if blocks[-1] and used + widths[index] > width:
            blocks.append([])
        blocks[-1].append(index)
    parts = []
    for block in blocks:
        chosen = [*range(table.left), *block]
        parts.append(
            _rendered(
                [head[i] for i in chosen],
                [[(row[i], table.rows[number][i].strong) for i in chosen] for number, row in enumerate(body)],
                right={position for position, i in enumerate(chosen) if i >= table.left},
                rules=table.rules,
                colour=colour,
                ascii=ascii,
            )
        )
    note = printable(table.note)
    parts.append(text.wrap(text.plain_ascii(note) if ascii else note, width))
    return "\n\n".join(part for part in parts if part)


_GAP = 2  # columns between two cells
_END = re.compile(r"(?: |\x1b\[[\d;]*m)+$")


def _rendered(
    head: Sequence[str],
    rows: Sequence[Sequence[tuple[str, bool]]],
    *,
    right: Collection[int] = (),
    rules: Collection[int] = (),
    colour: bool = False,
    ascii: bool = False,
    ruled: bool = True,
) -> str:
    """A `rich` table as text, as wide as its content needs.

    Args:
        head: Names of the columns; without any name there is no head.
        rows: Texts, of one or several lines, and whether each is bold.
        right: Columns that are set flush right.
        rules: Rows that are followed by a rule.
        colour: Whether styles are used.
        ascii: Whether rules are drawn with hyphens.
        ruled: Whether a rule follows the head.
    """
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    lines = "    \n    \n ── \n    \n ── \n    \n    \n    \n"
    box = Box(lines.replace("─", "-") if ascii else lines, ascii=ascii) if ruled else None
    made = RichTable(
        box=box,
        show_header=any(head),
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1 if ruled else _GAP, 0, 0),
        border_style="dim",
        header_style="",
    )
    for index, name in enumerate(head):
        made.add_column(Text(name, style="bold"), justify="right" if index in right else "left", no_wrap=True)
    for number, row in enumerate(rows):
        cells = [Text(content, style="bold" if strong else "") for content, strong in row]
        made.add_row(*cells, end_section=number in rules)
    buffer = io.StringIO()
    texts = [head, *([content for content, _ in row] for row in rows)]
    needed = sum(
        max(text.columns(line) for cell in column for line in cell.split("\n")) for column in zip(*texts, strict=True)
    )
    Console(
        file=buffer,
        width=needed + _GAP * len(head) + 1,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    ).print(made)
    # The last cells are padded with spaces, between which a style may end.
    return "\n".join(
        _END.sub(lambda end: end[0].replace(" ", ""), line) for line in buffer.getvalue().split("\n")[:-1]
    )


def grid(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    indent: int = 0,
    right: Collection[int] = (),
    colour: bool = False,
) -> str:
    """Columns of text for a terminal, without rules.

    Args:
        head: Names of the columns; without any name there is no head.
        rows: The texts, safe to print, of one or several lines.
        indent: Spaces before each line.
        right: Columns that are set flush right.
        colour: Whether the head may be bold.

    Returns:
        Lines without a final newline.
    """
    cells = [[(value, False) for value in row] for row in rows]
    shown = _rendered(head, cells, right=right, colour=colour, ruled=False)
    return "\n".join(" " * indent + line if line else line for line in shown.splitlines())
