"""Tables of signals as text (``.csv``): a row per sample in time, a column per channel, perhaps names in the first row."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.outside import JSON_LIMIT, open_regular, read_text


if TYPE_CHECKING:
    import numpy as np


_BEGINNING = 2**16  # bytes that the names are looked for in
_MISSING = frozenset({"", "-", "na", "n/a", "nan", "null", "none"})
Row = tuple[int, list[str]]  # number of its line, cells
Names = tuple[str, ...]


def read_table(path: Path) -> tuple[np.ndarray, Names | None]:
    """The numbers of a table, and the names of its columns.

    Args:
        path: A file whose cells are separated by commas, semicolons or tabs.

    Returns:
        (samples, channels) float32, and the cells of the first row if none of them is a number.

    Raises:
        ValueError: If a cell is empty or no number, or the rows differ in length; with line and column.
        OSError: If it cannot be read.
    """
    import numpy as np

    rows = _whole(_rows(read_text(path, JSON_LIMIT)))
    names = _names(rows)
    if names is None:
        _check_counted(rows)
    else:
        rows = rows[1:]
    values = [[_number(cell, line, column, names) for column, cell in enumerate(cells)] for line, cells in rows]
    return np.asarray(values, dtype=np.float32), names


def column_names(path: Path) -> Names | None:
    """The names in the first row of a table; None if it has none.

    Args:
        path: The file; only its beginning is read.

    Raises:
        ValueError: If the first row has names and cells without a name.
        OSError: If it cannot be read.
    """
    with open_regular(path) as file:
        text = file.read(_BEGINNING).decode("utf-8-sig", "replace")
    return _names(_rows(text, 2))


def shown(names: Names) -> str:
    """Names of columns for a message."""
    return ", ".join(names)


def _rows(text: str, most: int | None = None) -> list[Row]:
    """The rows of a table; empty lines at the end do not count."""
    text = text.rstrip("\r\n")
    first = re.sub(r'"[^"\n]*"', "", text.lstrip("\r\n").split("\n", 1)[0])
    mark = next((mark for mark in ";\t" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True)
    found: list[Row] = []
    try:
        for cells in reader:
            if not cells and found:
                raise ValueError(f"line {reader.line_num} is empty")
            if cells:
                found.append((reader.line_num, cells))
            if len(found) == most:
                break
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    return found


def _whole(rows: list[Row]) -> list[Row]:
    """The rows without an empty last column, where each line ends with a separator; they are of one length."""
    if rows and all(len(cells) > 1 and not cells[-1].strip() for _, cells in rows):
        rows = [(line, cells[:-1]) for line, cells in rows]
    for line, cells in rows:
        if len(cells) != len(rows[0][1]):
            raise ValueError(f"line {line} has {_cells(cells)}, and line {rows[0][0]} has {_cells(rows[0][1])}")
    return rows


def _cells(cells: Sequence[str]) -> str:
    return f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"


def _names(rows: Sequence[Row]) -> Names | None:
    """The first row, if no cell of it is a number."""
    if not rows or any(_parsed(cell) is not None for cell in rows[0][1]):
        return None
    line, names = rows[0][0], tuple(cell.strip() for cell in rows[0][1])
    if len(names) > 1 and not names[-1] and all(len(c) == len(names) and not c[-1].strip() for _, c in rows[1:]):
        names = names[:-1]
    for column, name in enumerate(names, start=1):
        if name.lower() in _MISSING:
            what = f"is {name!r}" if name else "is empty"
            raise ValueError(f"line {line}, column {column} {what}, which is no number and no name of a channel")
    return names


def _check_counted(rows: Sequence[Row]) -> None:
    """No first row 0,1,..., as pandas writes it for columns without names; a sample of these values can be 0.0,1.0."""
    if len(rows) > 1 and (width := len(rows[0][1])) > 1:
        if [cell.strip() for cell in rows[0][1]] == [str(number) for number in range(width)]:
            raise ValueError(
                f"line {rows[0][0]} counts the columns; give them names, or leave it out (`header=False`)"
            )


def _parsed(cell: str) -> float | None:
    """The number in a cell; `float` would take 1_000, too."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _number(cell: str, line: int, column: int, names: Names | None) -> float:
    value = _parsed(cell)
    if value is not None and math.isfinite(value):
        return value
    named = f" ({names[column]})" if names else ""
    what = f"is {cell.strip()!r}, which is no finite number" if cell.strip() else "is empty"
    more = "; write decimals with a point" if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", cell) else ""
    raise ValueError(f"line {line}, column {column + 1}{named} {what}{more}")
