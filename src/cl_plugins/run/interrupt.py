"""SIGTERM and Ctrl-C: finish what is being written, keep what has been learned, say "run again"."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

from ..base import ranks


EXIT_RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: not a failure, the same command resumes the run
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """The run ended cleanly before its end; the process exits with `EXIT_RUN_AGAIN`."""

    def __init__(self) -> None:
        super().__init__(EXIT_RUN_AGAIN)


class StopRequest:
    """Context manager that turns SIGTERM and SIGINT into a flag, to be checked where stopping is safe.

    A second SIGINT of a process without a launcher stops it at once, as Ctrl-C usually does. Under torchrun a rank
    gets the same Ctrl-C twice, from the terminal and from torchrun, so that only the flag is set there.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        """Install the handler (main thread only; elsewhere nothing happens)."""
        for number in _SIGNALS:
            with contextlib.suppress(ValueError):  # not the main thread
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the earlier handlers back.

        A rank that leaves because it was asked to ignores further signals: torchrun sends its own when the first rank
        has gone, and it must not change this rank's exit code.
        """
        leaving = self.asked and ranks.launched()
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_IGN if leaving else previous)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not ranks.launched():
            if self.asked:
                raise KeyboardInterrupt
            _tell("\nstopping after the current files are written; press Ctrl-C again to stop at once\n")
        self.asked = True

    def check(self) -> None:
        """Leave if a stop was requested.

        Raises:
            Interrupted: With the exit code that says "run again".
        """
        if self.asked:
            raise Interrupted


def _tell(text: str) -> None:
    """Write to standard error without its buffer, which the interrupted code may hold."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), text.encode("ascii"))
