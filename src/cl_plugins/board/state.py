"""What the board says of one run: its state, how far it is, and its metrics."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import ClPluginsError
from ..base.lock import holder
from ..base.outside import OutsideError, open_regular
from ..records.run import JOURNAL, RUN
from ..report import read_run
from ..report.labels import labels
from ..report.text import visible
from ..run.progress import clock
from ..run.reopen import read_record
from ..run.status import collect


LOG = "board.log"  # what a process that the board has started prints
METRICS = ("last", "average", "bwt")
_TAIL = 64 * 1024  # bytes of a log that are read
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


@dataclass(frozen=True)
class RunLine:
    """One line of the list.

    Attributes:
        name: The name below the folder.
        state: ``at work``, ``finished``, ``failed``, ``stopped``, ``not begun``, ``imported``, ``scores only`` or
            ``damaged``.
        method: Name of the method; where there are results with its options that are not the default, and replay.
        stream: Name of the stream.
        done: Finished steps.
        steps: All steps; 0 where they are not known.
        now: The step at work, or the next one; empty for a finished run.
        seconds: Time of the finished steps.
        metrics: ``last``, ``average`` and ``bwt``, where they are defined.
        problem: Why a run cannot be shown, or why its last training failed.
        at_work: Who holds the lock.
    """

    name: str
    state: str
    method: str = ""
    stream: str = ""
    done: int = 0
    steps: int = 0
    now: str = ""
    seconds: float = 0.0
    metrics: dict[str, float | None] = field(default_factory=dict)
    problem: str = ""
    at_work: dict[str, Any] | None = None

    @property
    def took(self) -> str:
        """The time of the finished steps as a clock."""
        return clock(self.seconds)


class States:
    """Reads the lines of runs; files that have not changed are read once."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Any, RunLine]] = {}

    def line(self, name: str, root: Path) -> RunLine:
        """The line of one run.

        Args:
            name: Its name below the folder.
            root: Its directory.
        """
        key = (name, version_of(root), holder(root) is None, _trainer_log_version(root))
        known = self._known.get(root)
        if known is None or known[0] != key:
            known = self._known[root] = (key, read_line(name, root))
        return known[1]


def version_of(root: Path) -> tuple[tuple[int, int] | None, ...]:
    """Changes whenever one of the files does that the board reads of a run."""
    return tuple(_stamp(root / name) for name in (RUN, JOURNAL, "matrix.json", "metrics.json"))


def read_line(name: str, root: Path) -> RunLine:
    """As `States.line`, from the files as they are now."""
    try:
        record, value = read_record(root), collect(root)
    except (ClPluginsError, OSError, ValueError) as error:
        return RunLine(name, "damaged", problem=str(error), at_work=holder(root))
    steps = value["steps"]
    done = [step for step in steps if step["state"] == "finished"]
    left = [step for step in steps if step["state"] == "pending"]
    failed = record.get("failed")
    metrics, label, problem = _results(root)
    if value["locked_by"] is not None:
        state = "at work"
    elif value["finished"]:
        state = "finished"
    elif "files" not in record and (record.get("imported") or {}).get("tasks"):  # weights, which nobody has tested yet
        state, left = "imported", []
    elif "files" in record or "imported" in record:  # scores that were joined, imported or computed again
        state, left = "scores only", []
    elif failed:
        state, problem = "failed", f"{failed['step']}: {failed['error']}"
    else:
        state = "stopped" if done else "not begun"
    now = ""
    if left and not value["finished"]:
        now = _words(left[0]["step"])
        if state == "at work" and left[0]["step"].startswith("train:"):
            now += _updates(root, left[0]["step"].split(":")[1])
    return RunLine(
        name,
        "damaged" if problem and state != "failed" else state,
        method=label or str(value["method"]),
        stream=str(value["stream"]),
        done=len(done),
        steps=len(steps),
        now=now,
        seconds=float(value["seconds"]),
        metrics=metrics,
        problem=problem,
        at_work=value["locked_by"],
    )


def log_tail(root: Path, lines: int = 200) -> str:
    """The end of what the process printed that the board started; empty if it has started none.

    Colours are left out, and of a progress bar its last state is shown.

    Args:
        root: The run's directory.
        lines: How many lines at most.
    """
    try:
        with open_regular(root / LOG, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL))
            text = file.read(_TAIL).decode("utf-8", "replace")
    except (OSError, OutsideError):
        return ""
    kept: deque[str] = deque(maxlen=lines)
    for line in text.rstrip().split("\n"):
        shown = _ANSI.sub("", line.rstrip("\r").rsplit("\r", 1)[-1]).rstrip()
        if shown or (kept and kept[-1]):
            kept.append(visible(shown))
    return "\n".join(kept).strip("\n")


def _results(root: Path) -> tuple[dict[str, float | None], str, str]:
    """Of a run that has results: its metrics, its method as comparisons name it, and what is wrong with them."""
    if not os.path.lexists(root / "matrix.json"):
        return {}, "", ""
    try:
        run = read_run(root)
    except (ClPluginsError, OSError, ValueError) as error:
        return {}, "", str(error)
    return {key: run.metrics[key].value for key in METRICS if key in run.metrics}, labels([run])[0], ""


def _words(key: str) -> str:
    """A step's key as people read it."""
    kind, *rest = key.split(":")
    return " ".join([kind, *(part.replace("_", " ") for part in rest[:-1]), *rest[-1:]])


def _updates(root: Path, task: str) -> str:
    """``, 12 of 40 updates, 0:01:10 left``, from what LLaMA-Factory logs of the training at work."""
    path = _trainer_log(root)
    if path is None or path.parent.name.partition("_")[2] != task:
        return ""
    try:
        with open_regular(path, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 4096))
            last = json.loads(file.read(4096).decode("utf-8", "replace").strip().split("\n")[-1])
        done, of, left = int(last["current_steps"]), int(last["total_steps"]), str(last["remaining_time"])
    except (OSError, OutsideError, ValueError, KeyError, TypeError):
        return ""
    return f", {done} of {of} updates, {left[:20]} left"


def _trainer_log(root: Path) -> Path | None:
    """The training log that was written last; of no folder that is a link."""
    tasks = root / "tasks"
    if tasks.is_symlink() or not tasks.is_dir():
        return None
    found = [(stamp, path / "trainer_log.jsonl") for path in tasks.iterdir() if not path.is_symlink()
             if (stamp := _stamp(path / "trainer_log.jsonl")) is not None]  # fmt: skip
    return max(found, default=((0, 0), None))[1]


def _trainer_log_version(root: Path) -> tuple[int, int] | None:
    path = _trainer_log(root)
    return _stamp(path) if path is not None else None


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
