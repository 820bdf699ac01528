"""A process for every measurement, and no import of LLaMA-Factory that anyone has to wait for.

A card must not be used by a process before it forks, and LLaMA-Factory asks the card for its abilities while it is imported. On a card the
next process is therefore started, and imports, while the one before measures (`Ahead`). On the CPU this process imports once and forks
(`Forked`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


ROOT = Path(__file__).resolve().parents[2]
#: What a process returns as its exit code when the measurement failed and it could say so.
FAILED = 3


class Workers(Protocol):
    """Carries out orders (`benchmarks.gpu.measure.measure`), each in a process of its own."""

    def run(self, order: Mapping[str, Any], log: Path, limit: float) -> dict[str, Any]:
        """Carry out an order.

        Args:
            order: What `measure` takes.
            log: Where the process writes its output.
            limit: Seconds after which it is killed.

        Returns:
            What `measure` returns, or ``{"error": first line}``.
        """

    def close(self) -> None:
        """End processes that wait for an order."""


class Ahead:
    """Keeps one process waiting for the next order, with everything imported.

    Args:
        command: Starts a process that reads one order as a line of JSON.
        log: Where the processes write while they import; None for where this one writes.
    """

    def __init__(self, command: list[str] | None = None, log: Path | None = None) -> None:
        self._command = command or [sys.executable, "-m", "benchmarks.gpu.workers"]
        self._log = log
        self._waiting: subprocess.Popen[str] | None = self._start()

    def _start(self) -> subprocess.Popen[str]:
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") if self._log is not None else contextlib.nullcontext() as told:
            return subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=told, stderr=told, text=True, cwd=ROOT
            )

    def run(self, order: Mapping[str, Any], log: Path, limit: float) -> dict[str, Any]:
        """See `Workers.run`."""
        process = self._waiting or self._start()
        answer = log.with_suffix(".answer.json")
        answer.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(BrokenPipeError):  # it has ended while it imported; its exit code says so
            process.stdin.write(json.dumps({"order": dict(order), "log": str(log), "answer": str(answer)}) + "\n")
            process.stdin.close()
        self._waiting = self._start()
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return {"error": f"stopped after {limit:.0f} s", "code": -signal.SIGKILL}
        return _answer(code, answer)

    def close(self) -> None:
        """See `Workers.close`."""
        if self._waiting is not None:
            self._waiting.kill()
            self._waiting.wait()
            self._waiting = None


class Forked:
    """Imports here and forks; for the CPU only.

    Args:
        preload: Imports what the measurements need.
        measure: Carries out an order.
    """

    def __init__(self, preload: Any = None, measure: Any = None) -> None:
        from benchmarks.gpu import measure as own

        (preload or own.preload)()
        self._measure = measure or own.measure

    def run(self, order: Mapping[str, Any], log: Path, limit: float) -> dict[str, Any]:
        """See `Workers.run`."""
        answer = log.with_suffix(".answer.json")
        answer.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _carry_out(self._measure, order, log, answer)
        until = time.monotonic() + limit
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return _answer(os.waitstatus_to_exitcode(status), answer)
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"error": f"stopped after {limit:.0f} s", "code": -signal.SIGKILL}
            time.sleep(0.02)

    def close(self) -> None:
        """See `Workers.close`."""


def _answer(code: int, path: Path) -> dict[str, Any]:
    """What a process has left, or how it ended."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        return found
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return {"error": f"the process ended with {how}", "code": code}


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, without what would break a table.

    Args:
        error: The error.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text[:240]


def _carry_out(measure: Any, order: Mapping[str, Any], log: Path, answer: Path) -> None:
    """Measure, leave the answer and end this process."""
    code = FAILED
    try:
        sys.stdout = sys.stderr = file = log.open("a", encoding="utf-8", buffering=1)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        started = time.monotonic()
        try:
            found, code = measure(order), 0
            found = {**found, "seconds": time.monotonic() - started}
        except BaseException as error:
            traceback.print_exc()
            found = {"error": first_line(error), "seconds": time.monotonic() - started}
        part = answer.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(answer)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without the exit handlers of the process that was forked


def main() -> None:
    """Import, wait for an order on the standard input, and carry it out."""
    from benchmarks.gpu.measure import measure, preload

    preload()
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    order = json.loads(line)
    _carry_out(measure, order["order"], Path(order["log"]), Path(order["answer"]))


if __name__ == "__main__":
    main()
