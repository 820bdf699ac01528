"""How far the stream is, and when it will be done: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from typing import Any

from ..base.logs import logger
from .plan import Step


def clock(seconds: float) -> str:
    """``1:02:03`` or ``02:03``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


class Progress:
    """Counts units of work (optimizer steps, test items) over the whole stream.

    The time left is each kind's remaining units times its measured seconds per unit; kinds not yet measured count as
    the average of the others, so the first estimate is rough and improves.

    Args:
        units: Step key -> (kind, units), for every step still to be done.
        visible: Whether this process shows anything.
    """

    def __init__(self, units: dict[str, tuple[str, int]], *, visible: bool = True) -> None:
        self._left = dict(units)
        self._total = max(1, sum(n for _, n in units.values()))
        self._done = 0.0
        self._spent: dict[str, float] = {}
        self._worked: dict[str, float] = {}
        self._visible = visible
        self._started = time.monotonic()
        self._bar: Any = None
        self._current: tuple[str, str, int] | None = None
        if visible and sys.stderr.isatty():
            from tqdm import tqdm

            layout = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
            self._bar = tqdm(total=self._total, bar_format=layout, leave=True, dynamic_ncols=True)

    def begin(self, step: Step, number: int, of: int, units: int | None = None) -> None:
        """A step starts.

        Args:
            step: The step.
            number: Its number in the plan, from 1.
            of: Number of steps in the plan.
            units: Its units, if they are known better now.
        """
        kind, planned = self._left.get(step.key, (step.kind, 1))
        units = units if units is not None else planned
        self._left[step.key] = (kind, units)
        self._current = (step.key, kind, units)
        self._step_started = time.monotonic()
        words = {"zero_shot": "zero-shot", None: ""}
        row = words.get(step.row, (step.row or "").replace("_", " "))
        label = " ".join(part for part in (step.kind, step.task or "", f"({row})" if row else "") if part)
        if self._bar is not None:
            self._bar.set_description(f"[{number}/{of}] {label}", refresh=False)
            self._bar.set_postfix_str(f"ETA {self.eta()}")
        elif self._visible:
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
        kind, left = self._left[self._current[0]]
        self._left[self._current[0]] = (kind, max(0, left - units))
        self._done += units
        self._step_started = time.monotonic()

    def advance(self, units: int = 1) -> None:
        """Some units of the current step are done."""
        if self._current is None:
            return
        key, kind, _ = self._current
        self._worked[kind] = self._worked.get(kind, 0) + units
        now = time.monotonic()
        self._spent[kind] = self._spent.get(kind, 0.0) + now - self._step_started
        self._step_started = now
        _, left = self._left[key]
        self._left[key] = (kind, max(0, left - units))
        self._done += units
        if self._bar is not None:
            self._bar.n = min(self._done, self._total)
            self._bar.set_postfix_str(f"{clock(now - self._started)} elapsed, ETA {self.eta()}")

    def end(self) -> None:
        """The current step is done."""
        if self._current is not None:
            self._left.pop(self._current[0], None)
            self._current = None

    def eta(self) -> str:
        """Time left, or ``?`` before anything has been measured."""
        rates = {kind: self._spent[kind] / n for kind, n in self._worked.items() if n}
        if not rates:
            return "?"
        typical = sum(rates.values()) / len(rates)
        return clock(sum(units * rates.get(kind, typical) for kind, units in self._left.values()))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
