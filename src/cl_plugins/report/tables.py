"""One table type and the forms it is printed in: Markdown, LaTeX (booktabs) and the terminal.

The HTML form is a macro in ``templates/base.html.j2``.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import text


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: What stands there.
        detail: Smaller print beside it, such as an interval.
        strong: Whether it is set in bold.
        tint: 0-100 for a background from pale to full, or ``None`` for no background.
        code: Whether it is a formula or an identifier.
    """

    text: str
    detail: str = ""
    strong: bool = False
    tint: float | None = None
    code: bool = False


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
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    left: int = 1
    rules: frozenset[int] = frozenset()
    note: str = ""
    wrap: frozenset[int] = frozenset()


def to_markdown(table: Table) -> text.Markdown:
    """The table in GitHub's Markdown, names escaped."""

    def entry(cell: Entry) -> str:
        if cell.code and cell.text:
            return text.code(cell.text)
        shown: str = text.markdown(cell.text)
        shown = f"**{shown}**" if cell.strong and shown else shown
        return f"{shown} {text.markdown(cell.detail)}".strip()

    marks = [":---" if index < table.left else "---:" for index in range(len(table.head))]
    lines: list[list[str]] = [[text.markdown(name) for name in table.head], marks]
    lines += [[entry(cell) for cell in row] for row in table.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text.Markdown(f"{body}\n\n{text.markdown(table.note)}" if table.note else body)


def to_tex(table: Table, caption: str, label: str) -> str:
    r"""The table as a LaTeX ``table`` environment with booktabs rules.

    Args:
        table: Entries' texts are escaped; details are left out.
        caption: LaTeX code.
        label: Label without its ``tab:``.

    Returns:
        The source; needs ``\usepackage{booktabs}``.
    """

    def entry(cell: Entry) -> str:
        shown = text.tex(cell.text)
        return f"\\textbf{{{shown}}}" if cell.strong and shown else shown

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
        "\\midrule",
    ]
    for index, row in enumerate(table.rows):
        lines.append(" & ".join(entry(cell) for cell in row) + r" \\")
        if index in table.rules and index + 1 < len(table.rows):
            lines.append("\\midrule")
    lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines)


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
        if not ascii:
            return text.shorten(content, limit)
        # An escape is longer than what it stands for, and must not be cut in two.
        fits = (text.plain_ascii(text.shorten(content, room)) for room in range(limit, 0, -1))
        return next((short for short in fits if len(short) <= limit), "?")

    first = max(17, min(32, width // 3))
    head = [shown(name, name_width if index >= table.left else first) for index, name in enumerate(table.head)]
    body = [
        [shown(cell.text, first if index < table.left else width) for index, cell in enumerate(row)]
        for row in table.rows
    ]
    widths = [
        max([text.columns(head[index]), *(text.columns(row[index]) for row in body)]) for index in range(len(head))
    ]
    left = list(range(table.left))
    blocks: list[list[int]] = [[]]
    fixed = sum(widths[index] for index in left) + 2 * max(0, table.left - 1) + 3
    for index in range(table.left, len(head)):
        used = fixed + sum(widths[other] + 2 for other in blocks[-1])
        if blocks[-1] and used + widths[index] > width:
            blocks.append([])
        blocks[-1].append(index)
    bar, dash, cross = ("|", "-", "+") if ascii else ("│", "─", "┼")
    lines: list[str] = []
    for block in blocks:
        left_width = fixed - 3
        rule = dash * (left_width + 1) + cross + dash * (1 + sum(widths[i] + 2 for i in block) - 2)
        rule = _style(rule, "2", colour)

        def line(entries: list[str], styles: list[str], block: list[int] = block) -> str:
            cells = [text.pad(entries[i], widths[i], right=i >= table.left) for i in [*left, *block]]
            cells = [_style(cell, styles[i], colour) for cell, i in zip(cells, [*left, *block], strict=True)]
            edge = _style(bar, "2", colour)
            return ("  ".join(cells[: table.left]) + f" {edge} " + "  ".join(cells[table.left :])).rstrip()

        lines += [line(head, ["1"] * len(head)), rule]
        for index, row in enumerate(body):
            lines.append(line(row, ["1" if cell.strong else "" for cell in table.rows[index]]))
            if index in table.rules and index + 1 < len(body):
                lines.append(rule)
        lines.append("")
    if table.note:
        lines.append(text.plain_ascii(table.note) if ascii else table.note)
    return "\n".join(lines).rstrip("\n")


def _style(content: str, code: str, colour: bool) -> str:
    """Wrap in an ANSI style."""
    return f"\x1b[{code}m{content}\x1b[0m" if colour and code else content
