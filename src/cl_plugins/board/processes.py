"""Processes that the board starts and stops: checks of recipes, and runs."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..base.lock import LOCK, holder
from ..base.outside import OutsideError, parse_json
from ..run.interrupt import EXIT_RUN_AGAIN
from .state import LOG


CHECK = (sys.executable, "-m", "cl_plugins.cli", "validate", "--json")


class Processes:
    """The runs that this board has started.

    A run is a process in a session of its own, so that it outlives the board; the board can stop any run below its
    folder, whoever has started it.

    Args:
        command: What trains a recipe; its file is appended.
        check: What checks a recipe and prints JSON; its file is appended.
    """

    def __init__(self, command: Sequence[str], check: Sequence[str] = CHECK) -> None:
        self._command = list(command)
        self._check = list(check)
        self._started: dict[Path, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def check(self, recipe: Path, *, quick: bool = False) -> tuple[list[Problem], list[str]]:
        """Problems and notes of a recipe, from a process of its own: the libraries stay out of the board.

        Args:
            recipe: The file.
            quick: Whether to leave out what needs the base's tokenizer; a run checks it again at its start.

        Raises:
            RunStateError: If the check itself fails.
        """
        command = [*self._check, *(["--quick"] if quick else []), str(recipe)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        try:
            found = parse_json(done.stdout)[str(recipe)]
            return [Problem(**each) for each in found["problems"]], [str(note) for note in found["notes"]]
        except (OutsideError, ValueError, KeyError, TypeError) as error:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
            what = f"could not be checked (exit code {done.returncode}): {lines[-1]}"
            raise RunStateError(Problem(str(recipe), what, f"Run `cl-plugins validate {recipe}`.")) from error

    def start(self, recipe: Path, root: Path) -> int:
        """Start or resume the run of a recipe; its output goes to ``board.log`` in the run's directory.

        Args:
            recipe: The file.
            root: The run's directory, which is made if need be.

        Returns:
            The number of the process.

        Raises:
            RunStateError: If the run is at work, or its log cannot be written.
        """
        with self._lock:
            root = _key(root)
            if (self.code(root) is None and root in self._started) or holder(root) is not None:
                raise RunStateError(Problem(str(root), "is at work already.", "Wait until it is done, or stop it."))
            command = [*self._command, str(recipe)]
            log = _open_log(root)
            try:
                head = f"\n[board] {datetime.now(UTC).isoformat(timespec='seconds')} {shlex.join(command)}\n"
                os.write(log, head.encode("utf-8", "backslashreplace"))
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            finally:
                os.close(log)
            self._started[root] = process
            return process.pid

    def code(self, root: Path) -> int | None:
        """The exit code of the last process that this board started for a run; None while it works, or without one."""
        process = self._started.get(_key(root))
        return process.poll() if process is not None else None

    def started(self) -> list[Path]:
        """The directories of the runs that this board has started."""
        return list(self._started)

    def alive(self, root: Path) -> bool:
        """Whether a process that this board has started for a run is there."""
        process = self._started.get(_key(root))
        return process is not None and process.poll() is None

    def stop(self, root: Path, kill: Callable[[int, int], Any] = os.kill) -> int:
        """Send SIGTERM to the process that works on a run: it saves what it has learned, and exits with code 75.

        The lock's note is a file that anybody may have written, so its process gets the signal only if it is on this
        machine and has the lock file open.

        Args:
            root: The run's directory.
            kill: Sends the signal.

        Returns:
            The number of the process.

        Raises:
            RunStateError: If no process works on it, or it cannot be reached from here.
        """
        note = holder(root)
        if note is None:
            if self.alive(root):  # still importing: nothing has been learned
                started = self._started[_key(root)].pid
                kill(started, signal.SIGTERM)
                return started
            raise RunStateError(Problem(str(root), "is not at work.", "There is nothing to stop."))
        pid: Any = note.get("pid")
        host = note.get("host")
        if host != socket.gethostname():
            what = f"is carried out by process {pid} on {host}, which cannot be reached from here."
            raise RunStateError(Problem(str(root), what, "Send SIGTERM to it there."))
        if not isinstance(pid, int) or not _has_open(pid, root / LOCK):
            what = f"names process {pid} in its lock, and that process does not hold the lock."
            raise RunStateError(Problem(str(root), what, "Find the process that does, and send SIGTERM to it."))
        kill(pid, signal.SIGTERM)
        return pid


def meaning(code: int) -> str:
    """What an exit code of a run says.

    Args:
        code: As `subprocess` gives it: below zero for a signal.
    """
    if code == 0:
        return "It ended with exit code 0."
    if code == EXIT_RUN_AGAIN:
        return f"It was stopped and ended with exit code {code}: start it again, and it resumes where it stopped."
    if code == -signal.SIGTERM:
        return "It was stopped before the run began."
    if code < 0:
        return f"It was ended by signal {-code}. Start it again, and it resumes from its last finished step or checkpoint."
    return f"It failed with exit code {code}; the end of its output says why."


def _key(root: Path) -> Path:
    """A run's directory as it is noted: absolute, whatever folder the board was started with."""
    return Path(os.path.abspath(root))


def _open_log(root: Path) -> int:
    """The log, opened for appending, never through a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
    try:
        root.mkdir(parents=True, exist_ok=True)
        return os.open(root / LOG, flags, 0o666)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})."
        raise RunStateError(Problem(str(root / LOG), what, "Check the folder and its permissions.")) from error


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process of this machine has a file open."""
    import psutil

    try:
        wanted = os.stat(path, follow_symlinks=False)
        for opened in psutil.Process(pid).open_files():
            try:
                if os.path.samestat(os.stat(opened.path), wanted):
                    return True
            except OSError:
                continue
    except (OSError, psutil.Error, OverflowError, ValueError):
        return False
    return False
