"""One logger for the whole package; rank 0 speaks."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap

from .printable import printable


logger = logging.getLogger("cl_plugins")


class _Formatter(logging.Formatter):
    """Shows control characters of names as escapes, and folds long messages on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, on a terminal lines of its width."""
        text = printable(super().format(record))
        terminal = getattr(sys.stderr, "on_terminal", False) or sys.stderr.isatty()
        return folded(text, shutil.get_terminal_size().columns) if terminal else text


def folded(text: str, width: int) -> str:
    """Fold a message between its words, where a terminal would break within them.

    Args:
        text: The message; lines that begin with a space, such as rows of a table, stay as they are.
        width: Columns of the terminal.

    Returns:
        The message; what goes on in a further line is indented.
    """
    lines = (
        textwrap.wrap(
            line,
            width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        )
        if len(line) > width and not line.startswith(" ")
        else [line]
        for line in text.split("\n")
    )
    return "\n".join("\n".join(each) for each in lines)


def set_up() -> None:
    """Print the package's messages, from rank 0 only, and quieten Transformers unless the user requested more."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter("[cl_plugins %(asctime)s] %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
