"""SIGTERM and Ctrl-C: finish what is being written, keep what has been learned, say "run again"."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


EXIT_RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: not a failure, the same command goes on


class Interrupted(SystemExit):
    """The run ended cleanly before its end; the process exits with `EXIT_RUN_AGAIN`."""

    def __init__(self) -> None:
        super().__init__(EXIT_RUN_AGAIN)


class StopRequest:
    """Context manager that turns SIGTERM into a flag, to be looked at where stopping is safe."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> StopRequest:
        """Install the handler (main thread only; elsewhere nothing happens)."""
        try:
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        except ValueError:  # not the main thread
            self._previous = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the earlier handler back."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def check(self) -> None:
        """Leave if a stop was asked for.

        Raises:
            Interrupted: With the exit code that says "run again".
        """
        if self.asked:
            raise Interrupted
