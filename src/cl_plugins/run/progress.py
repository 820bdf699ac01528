"""How far the stream is, and when it will be done: a status line on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from ..base.logs import logger
from ..base.printable import printable
from ..base.status_line import StatusLine
from .plan import Step


#: The kinds that take time, and their units.
_UNITS = {"train": "optimizer steps", "evaluate": "test items"}
#: What a narrow terminal gets in place of the number of units.
_SHORT = {"train": "training", "evaluate": "tests"}
#: In a plan of more steps, a test is announced if the one before it in its row took longer than `_BRIEF` seconds.
_LONG, _BRIEF = 500, 1.0
_BAR = 16  # columns of a status line for bar and percentage, at least


def clock(seconds: float) -> str:
    """``1:02:03`` or ``02:03``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


class Progress:
    """Counts units of work (optimizer steps, test items) over the whole stream.

    The time left is each kind's remaining units times its measured seconds per unit. Work of a kind that has not been
    measured yet, and steps of unknown length, are listed with the estimate and are not part of it.

    Args:
        units: Step key -> (kind, units), for every step still to be done; None for units that are not known yet.
        visible: Whether this process shows anything.
    """

    def __init__(self, units: Mapping[str, tuple[str, int | None]], *, visible: bool = True) -> None:
        self._left: dict[str, tuple[str, int | None]] = {}
        self._sums: dict[str, int] = {}  # of the units that are left, by kind
        self._unknown = 0  # steps whose units are not known
        for key, (kind, count) in units.items():
            self._set(key, kind, count)
        self._done = 0.0
        self._spent: dict[str, float] = {}
        self._worked: dict[str, float] = {}
        self._visible = visible
        self._started = time.monotonic()
        self._current: tuple[str, str] | None = None
        self._row: tuple[str, str | None] = ("", None)  # kind and row of the current step
        self._brief: tuple[str, str | None] | None = None  # of the last one, if it was a short test
        self._begun = self._started
        self._label = ""
        self._line: StatusLine | None = None
        if visible and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._line = StatusLine()

    def begin(self, step: Step, number: int, of: int, units: int | None = None) -> None:
        """A step starts.

        Args:
            step: The step.
            number: Its number in the plan, from 1.
            of: Number of steps in the plan.
            units: Its units, if they are known better now.
        """
        kind, planned = self._left.get(step.key, (step.kind, 1))
        again = self._current is not None and self._current[0] == step.key
        units = units if units is not None else planned
        self._set(step.key, kind, units)
        self._current, self._row = (step.key, kind), (step.kind, step.row)
        self._step_started = self._begun = time.monotonic()
        words = {"zero_shot": "zero-shot", None: ""}
        row = words.get(step.row, (step.row or "").replace("_", " "))
        label = " ".join(part for part in (step.kind, step.task or "", f"({row})" if row else "") if part)
        self._label = printable(f"[{number}/{of}] {label}")
        if self._line is not None:
            self._show()
        elif self._visible and not again and not (of > _LONG and self._brief == self._row):
            logger.info(
                "step %d/%d: %s · %s elapsed · ETA %s",
                number,
                of,
                label,
                clock(time.monotonic() - self._started),
                self.eta(),
            )

    def skip(self, units: int) -> None:
        """Some units of the current step were done by an earlier start; they say nothing about the speed."""
        if self._current is None:
            return
        self._take(units)
        self._step_started = time.monotonic()

    def advance(self, units: int = 1) -> None:
        """Some units of the current step are done."""
        if self._current is None:
            return
        kind = self._current[1]
        self._worked[kind] = self._worked.get(kind, 0) + units
        now = time.monotonic()
        self._spent[kind] = self._spent.get(kind, 0.0) + now - self._step_started
        self._step_started = now
        self._take(units)
        self._show()

    def _take(self, units: int) -> None:
        if self._current is None:
            return
        kind, left = self._left[self._current[0]]
        self._set(self._current[0], kind, None if left is None else max(0, left - units))
        self._done += units

    def end(self) -> None:
        """The current step is done."""
        if self._current is not None:
            self._drop(self._current[0])
            brief = self._row[1] is not None and time.monotonic() - self._begun < _BRIEF
            self._current, self._brief = None, self._row if brief else None

    def _set(self, key: str, kind: str, units: int | None) -> None:
        """Note what is left of a step."""
        self._drop(key)
        self._left[key] = (kind, units)
        if units is None:
            self._unknown += 1
        else:
            self._sums[kind] = self._sums.get(kind, 0) + units

    def _drop(self, key: str) -> None:
        kind, units = self._left.pop(key, ("", 0))
        if units is None:
            self._unknown -= 1
        elif units:
            self._sums[kind] -= units

    def eta(self, *, short: bool = False) -> str:
        """Time left for the kinds of work that have been measured, and the units of those that have not.

        Args:
            short: Name the work that has not been measured without its units.
        """
        rates = {kind: self._spent[kind] / n for kind, n in self._worked.items() if n}
        left = sum(units * rates[kind] for kind, units in self._sums.items() if kind in rates)
        parts = [clock(left) if rates else "?"]
        for kind, name in _UNITS.items():
            units = self._sums.get(kind, 0)
            if kind not in rates and units:
                parts.append(_SHORT[kind] if short else f"{units:,} {name}")
        if self._unknown:
            parts.append(f"{self._unknown} of unknown length")
        if short and not rates:
            return parts[0]
        return " + ".join(parts)

    def _show(self) -> None:
        if self._line is None:
            return
        total = max(1.0, self._done + sum(self._sums.values()))
        elapsed = clock(time.monotonic() - self._started)
        times = f"{elapsed} elapsed, ETA {self.eta()}"
        if len(self._label) + len(times) + _BAR > self._line.width:
            times = f"{elapsed} elapsed, ETA {self.eta(short=True)}"
        self._line.show(self._label, self._done, total, times)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._line is not None:
            self._line.close()
            self._line = None
