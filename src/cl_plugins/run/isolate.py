"""A fresh process for every few steps: the user's own launch command, started again and again."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ..base.errors import Problem, RecipeError, RunStateError
from ..base.waiting import waited
from .interrupt import EXIT_RUN_AGAIN
from .journal import Journal


#: Starts in a row that may end with "run again" without finishing a step.
PATIENCE = 5


def launch_command(launcher: str) -> list[str]:
    """The words of a launch command, with the program found.

    Args:
        launcher: As one would type it.

    Raises:
        RecipeError: If there is no such program.
    """
    words = shlex.split(launcher)
    if not words:
        raise RecipeError(Problem("--launcher", "is empty.", "Leave `--launcher` out, or give a command."))
    beside = Path(sys.executable).parent / words[0]  # an environment that is not activated
    program = shutil.which(words[0]) or (str(beside) if beside.is_file() else None)
    if program is None:
        fix = "Activate the environment of LLaMA-Factory."
        raise RecipeError(Problem("--launcher", f"there is no program called {words[0]!r}.", fix))
    return [program, *words[1:]]


class _Child:
    """The process at work. A signal for this process becomes a SIGTERM for it, also where Ctrl-C reached both."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def run(self, command: Sequence[str]) -> int:
        """Start the command and wait for it; its exit code."""
        with subprocess.Popen(list(command)) as process:
            self._process = process
            if self.stopped:  # the signal came before there was a process
                process.send_signal(signal.SIGTERM)
            try:
                return waited(process)
            finally:
                self._process = None


def run_isolated(
    command: Sequence[str],
    root: Path,
    *,
    steps: int = 1,
    restart: bool = False,
    start: Callable[[Sequence[str]], int] | None = None,
    tell: Callable[[str], Any] = lambda message: None,
) -> int:
    """Start a launch command with ``cl.stop_after`` until the journal holds ``finish``.

    Args:
        command: Launch command, recipe and overrides.
        root: The run's directory.
        steps: Steps of the run per process.
        restart: Whether the recipe says ``cl.restart``; only the first start may obey it.
        start: Runs a command and gives its exit code; a subprocess by default.
        tell: Told what happens.

    Returns:
        0 when the run is finished, 75 when it was asked to stop, else the exit code of the start that failed.

    Raises:
        RunStateError: If starts end well, but no step gets finished.
    """
    child = _Child()
    start = start or child.run
    previous = {number: _catch(number, child.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    idle = skipped = number = 0
    try:
        while True:
            if child.stopped:  # between two starts
                return EXIT_RUN_AGAIN
            number += 1
            before = set() if restart and number == 1 else _finished(root)
            # Steps that can no longer be measured are passed over without an entry, so a start that finished nothing
            # is followed by one that goes further. Dotted scalars survive every launcher.
            again = [f"cl.stop_after={steps * 2**skipped}", *(["cl.restart=false"] if restart and number > 1 else [])]
            code = start([*command, *again])
            after = _finished(root)
            tell(f"start {number}: exit code {code}, {len(after)} steps finished")
            if child.stopped:
                return EXIT_RUN_AGAIN if code in (0, EXIT_RUN_AGAIN, -signal.SIGTERM, -signal.SIGINT) else code
            if code not in (0, EXIT_RUN_AGAIN):
                return code
            if code == 0 and any(step == "finish" for step, _ in after):
                return 0
            gained = bool(after - before)
            idle = 0 if gained else idle + 1
            skipped = 0 if gained else skipped + int(code == 0)
            if idle >= PATIENCE:
                what = f"{PATIENCE} starts in a row finished no step, although the command reported no failure."
                raise RunStateError(Problem(str(root), what, "Read the messages of the last start."))
    finally:
        for signal_number, handler in previous.items():
            if handler is not None:
                signal.signal(signal_number, handler)


def _finished(root: Path) -> set[tuple[str, str]]:
    """Finished steps with their times (a step that is done again counts as new)."""
    return {(entry.step, entry.time) for entry in Journal(root).entries.values()}


def _catch(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Any:
    try:
        return signal.signal(number, handler)
    except ValueError:  # not the main thread
        return None
