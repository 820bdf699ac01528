"""How many cells are left, and when they will be done."""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import fmean

from ..run.progress import clock


class Progress:
    """Counts cells.

    Args:
        cells: How many there are.
        slots: How many are at work at the same time.
        measured: Recipe and seconds of runs that were finished before.
    """

    def __init__(self, cells: int, slots: int, measured: Iterable[tuple[str, float]] = ()) -> None:
        self._of, self._slots, self._ended = cells, max(1, slots), 0
        self._seconds: dict[str, list[float]] = {}
        self._running: dict[str, tuple[str, float]] = {}
        for recipe, seconds in measured:
            self._seconds.setdefault(recipe, []).append(seconds)

    def begins(self, cell: str, recipe: str) -> None:
        """A cell's run begins."""
        self._running[cell] = (recipe, time.monotonic())

    def ends(self, cell: str, seconds: float | None = None) -> None:
        """A cell is done with.

        Args:
            cell: Its id.
            seconds: How long it took, if that says how long others take.
        """
        recipe, _ = self._running.pop(cell, ("", 0.0))
        self._ended += 1
        if recipe and seconds is not None:
            self._seconds.setdefault(recipe, []).append(seconds)

    def left(self) -> float | None:
        """Seconds until all cells are done: the mean of what was measured, of the same recipe for those at work."""
        every = [seconds for found in self._seconds.values() for seconds in found]
        if not every:
            return None
        now = time.monotonic()
        running = [
            max(0.0, fmean(self._seconds.get(recipe, every)) - (now - began))
            for recipe, began in self._running.values()
        ]
        waiting = self._of - self._ended - len(self._running)
        return max([*running, (sum(running) + waiting * fmean(every)) / self._slots])

    def text(self) -> str:
        """``(3 of 20, ETA 1:02:03)``."""
        left = self.left()
        eta = "" if self._ended >= self._of else f", ETA {'?' if left is None else clock(left)}"
        return f"({self._ended} of {self._of}{eta})"
