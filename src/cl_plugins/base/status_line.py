"""One line at the bottom of a terminal that says how far something is; what is printed meanwhile appears above it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import threading
import time
from typing import IO, Any

from .printable import printable


_PAUSE = 0.2  # seconds between two drawings at least
#: A bar as tqdm draws it: ` 33%|###   | 20/60 [00:05<00:11, 3.57it/s]`.
_BAR = re.compile(r"\d%\|.*\| *[\d.]+\S*/[\d.]+\S* \[")


class StatusLine:
    """A `rich` progress line on standard error.

    While it is there, standard output, standard error and the log handlers that write to them go through the console
    that draws it. `close` puts everything back.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._real = (sys.stdout, sys.stderr)
        self._console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f}%", markup=False),
            TextColumn("{task.fields[times]}", markup=False),
            console=self._console,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=2,
        )
        self._task = self._progress.add_task("", total=1.0, times="", visible=False)  # until there is something to say
        self._label, self._refreshed = "", 0.0
        self._handlers: list[tuple[Any, IO[str]]] = []
        self._progress.start()
        above = [Above(self._console, stream) for stream in self._real]
        sys.stdout, sys.stderr = above
        for handler in _stream_handlers():
            for real, shown in zip(self._real, above, strict=True):
                if handler.stream is real:
                    self._handlers.append((handler, real))
                    handler.setStream(shown)

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._console.width

    def show(self, label: str, done: float, total: float | None, times: str) -> None:
        """Change what the line says.

        Args:
            label: What is being done, safe to print.
            done: Units that are done.
            total: All units; None if they are unknown.
            times: Elapsed and remaining time.
        """
        now = time.monotonic()
        refresh = label != self._label or now - self._refreshed > _PAUSE
        self._progress.update(
            self._task, description=label, completed=done, total=total, times=times, visible=True, refresh=refresh
        )
        if refresh:
            self._label, self._refreshed = label, now

    def close(self) -> None:
        """Remove the line and give the streams back."""
        for handler, real in self._handlers:
            handler.setStream(real)
        self._handlers = []
        for name, real in zip(("stdout", "stderr"), self._real, strict=True):
            shown = getattr(sys, name)
            if isinstance(shown, Above):
                shown.finish()
                setattr(sys, name, real)
        self._progress.stop()


class Bar:
    """A status line for one piece of work, with the methods of a progress bar; silent without a terminal.

    Args:
        name: What is being done.
        total: Number of units, None if unknown.
    """

    def __init__(self, name: str, total: int | None) -> None:
        self._name, self._total, self._done, self._more = printable(name), total, 0, ""
        self._line = StatusLine() if sys.stderr.isatty() else None
        self.update(0)

    def update(self, units: int) -> None:
        """Some units are done."""
        self._done += units
        if self._line is not None:
            self._line.show(self._name, self._done, self._total, self._more)

    def set_postfix_str(self, text: str) -> None:
        """Change the text after the bar."""
        self._more = printable(text)
        self.update(0)

    def close(self) -> None:
        """Remove the line."""
        if self._line is not None:
            self._line.close()


class Above(io.TextIOBase):
    """A stream whose lines are printed above the status line.

    Of a line that was overwritten with carriage returns only the last state is printed, and nothing of a progress bar:
    when its line ends, what it counted is over.

    Args:
        console: The console that draws the line.
        real: The stream that it stands for; asked for everything else.

    Attributes:
        on_terminal: That what is printed appears on a terminal. `isatty` says no, so that nobody moves the cursor.
    """

    on_terminal = True

    def __init__(self, console: Any, real: IO[str]) -> None:
        self._console, self._real = console, real
        self._rest, self._passing = "", False
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Print whole lines; keep what has no line end yet."""
        with self._lock:
            if self._passing and text[:1] not in ("\r", "\n"):  # a bar that another line comes in between
                self._rest = ""
            *lines, self._rest = (self._rest + text).split("\n")
            self._passing = "\r" in self._rest
            self._rest = self._rest[self._rest.rfind("\r") :] if self._passing else self._rest
            for line in lines:
                *earlier, last = line.rstrip("\r").split("\r")
                if not (earlier and _BAR.search(last)):
                    self._print(last)
        return len(text)

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text.from_ansi(line))  # keeps colours and drops every other escape sequence

    def finish(self) -> None:
        """Print what has no line end."""
        with self._lock:
            rest, self._rest = self._rest.strip("\r").rpartition("\r")[2], ""
            if rest.strip():
                self._print(rest)

    def flush(self) -> None:
        """Nothing is held back but lines without an end."""

    def isatty(self) -> bool:
        """Other progress bars must not draw here."""
        return False

    def fileno(self) -> int:
        """The file descriptor of the terminal."""
        return self._real.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the terminal."""
        return getattr(self._real, "encoding", None) or "utf-8"


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    """Log handlers of all loggers that write to a stream."""
    loggers: list[Any] = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    found: list[logging.StreamHandler[Any]] = []
    for logger in loggers:
        for handler in getattr(logger, "handlers", []):
            with contextlib.suppress(AttributeError):
                if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                    found.append(handler)
    return found
