"""Waiting for a process in a way that no signal is missed. Only the standard library is imported here."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any


def waited(process: subprocess.Popen[Any]) -> int:
    """Wait for a process, in short waits.

    Python runs the handler of a signal between two instructions. One that comes just before an endless wait would
    only be handled when the process has ended.

    Args:
        process: The process.

    Returns:
        Its exit code.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=1)
