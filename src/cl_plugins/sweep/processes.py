"""The processes of a sweep: the ordinary launch command in a session of its own, and signals for all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any


_PAUSE = 0.1  # seconds between two looks at a process that was told to stop


class Processes:
    """The runs at work in this process's name.

    Each has a session of its own, so that Ctrl-C on a terminal and the signals of a cluster reach this process alone;
    it tells its runs to stop, once, and they finish what they are writing (exit code 75).
    """

    def __init__(self) -> None:
        self.stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int | None:
        """Start a command and wait for it.

        Args:
            command: The command.
            log: What it prints is added to this file.
            environment: Variables in addition to those of this process.

        Returns:
            Its exit code; None if it was not started because a stop was asked for.
        """
        variables = {**os.environ, **environment}
        # torchrun is called by name, and its environment need not be activated
        variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", "")])
        with log.open("ab") as output:
            with self._lock:
                if self.stopped:
                    return None
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=variables,
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """Start nothing more and tell every run to stop; asked a second time, kill them."""
        again, self.stopped = self.stopped, True
        with self._lock:
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    if again:
                        os.killpg(process.pid, signal.SIGKILL)
                    else:
                        process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until no run is at work. For the main thread, where other threads wait for the runs themselves."""
        while self._running:
            time.sleep(_PAUSE)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Inside, SIGTERM and SIGINT stop the runs (only in the main thread; elsewhere nothing changes)."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.stop()

        previous: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):
                previous[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
