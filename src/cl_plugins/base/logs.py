"""One logger for the whole package; rank 0 speaks."""

from __future__ import annotations

import logging
import os
import sys

from .printable import printable


logger = logging.getLogger("cl_plugins")


class _Formatter(logging.Formatter):
    """Shows control characters of names as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return printable(super().format(record))


def set_up() -> None:
    """Print the package's messages, from rank 0 only, and quieten Transformers unless the user requested more."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter("[cl_plugins %(asctime)s] %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
