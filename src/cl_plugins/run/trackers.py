"""Experiment trackers: one run for the whole stream, whatever the number of processes, starts and restarts.

Steps are counted through the stream, and losses have the task in front of their names. ``.trackers.json`` of the run's
directory says which run each tracker has, and which results it was sent: what a killed process has not sent is sent by
the next one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..base import ranks
from ..base.errors import Problem, RunStateError
from ..base.files import append_line, write_json
from ..base.logs import logger
from ..base.words import words
from ..records.record import read_file
from ..records.run import read_run
from .tracking import About, ThroughTransformers, Writer, writer_names, writers


if TYPE_CHECKING:
    from .journal import Entry


FILE = ".trackers.json"
#: What was sent since `FILE` was written: lines of a tracker's name and a key.
SENT = ".trackers_sent.jsonl"
PICTURES = ("matrix", "forgetting", "confusion")


class StreamTracker(TrainerCallback):  # type: ignore[misc]
    """Passes the logs and results of a stream on to the trackers that the recipe names; on rank 0 only.

    Args:
        names: Name of a tracker as in ``report_to`` -> options that the host's own keys give it.
        training: The host's training arguments of any task.
        root: The run's output directory.
    """

    def __init__(self, names: Mapping[str, Mapping[str, Any]], training: Any, root: Path) -> None:
        self._names, self._training, self._root = names if ranks.is_main() else {}, training, root
        self._writers: list[Writer] | None = None
        self._known = _read(root)
        self._task, self._offset = "", 0
        self._passed: list[Entry] = []  # entries of the journal whose cells were sent
        self._steps = 0  # optimizer steps in them

    @property
    def wanted(self) -> bool:
        """Whether this process tells a tracker anything."""
        return bool(self._names)

    def open(self) -> None:
        """Open the trackers, once.

        Raises:
            RunStateError: If one of them cannot be opened.
        """
        if self._writers is not None:
            return
        found = writers(self._names, self._about) if self._names else []
        for writer in found:
            try:
                identity = writer.open(self._known.get(writer.name, {}).get("id"))
            except Exception as error:  # of the tracker's package: no login, no network, a run that was deleted
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                fix = f"Log in to it or use its offline mode; to begin a new one, delete {FILE} in the run's directory; or {words().untracked}."
                what = f"the tracker '{writer.name}' cannot be opened ({type(error).__name__}: {reason})."
                raise RunStateError(Problem("report_to", what, fix)) from error
            self._known.setdefault(writer.name, {"sent": {}})["id"] = identity
        self._writers = found
        self._save()

    def _about(self, options: Mapping[str, Any]) -> About:
        record = read_run(self._root)
        config = {key: record[key] for key in ("recipe", "stream", "method_options", "versions") if key in record}
        return About(self._root, self._training, options, json.loads(json.dumps(config)))

    def begin(self, task: str, offset: int, phase: str = "") -> None:
        """The next logs belong to ``task``; this number of optimizer steps came before it."""
        self._task, self._offset = f"{task}/{phase}" if phase else task, offset

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the trackers where the training goes on."""
        self._each(lambda writer: writer.begin(args, state, control, **kwargs))
        self._each(lambda writer: writer.rewind(state.global_step + self._offset))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Pass a log on, with the task in front of every name."""
        values = {f"{self._task}/{name}": value for name, value in _numbers(logs or {}).items()}
        if values:
            self._each(lambda writer: writer.scalars(values, state.global_step + self._offset))

    def cells(self, entries: Mapping[str, Entry]) -> None:
        """Send the cells of the accuracy matrix and the probes that were not sent yet.

        Args:
            entries: The journal.
        """
        if not self.wanted:
            return
        found, passed = list(entries.values()), self._passed
        if found[: len(passed)] != passed:  # another journal, or one that was rewritten
            passed, self._steps = [], 0
        self._passed, step = found, self._steps
        for entry in found[len(passed) :]:
            step += int(entry.details.get("optimizer_steps", 0))
            self._steps = step
            kind, *rest = entry.step.split(":")
            if kind not in ("evaluate", "probe") or "score" not in entry.details:
                continue
            (row, task), name = rest, "probes" if kind == "probe" else "score"
            value = float(entry.details["score"])
            self._send_once(
                f"{entry.step}@{entry.time}", {f"{name}/{row}/{task}": value, f"{name}/{task}": value}, step
            )

    def metrics(self, row: str, values: Mapping[str, Any], step: int) -> None:
        """Send continual metrics, once per row.

        Args:
            row: The row of the matrix that is complete.
            values: Name -> value; of a list the latest is sent, None is left out.
            step: Optimizer steps so far.
        """
        latest = {
            name: _latest(value) if isinstance(value, (list, tuple)) else value for name, value in values.items()
        }
        self._send_once(f"metrics:{row}", {f"metrics/{k}": v for k, v in _numbers(latest).items()}, step)

    def pictures(self, step: int) -> None:
        """Send the pictures of the report that are there and were not sent yet."""
        for name in PICTURES:
            path = self._root / f"{name}.png"
            if path.is_file():
                key = f"picture:{name}:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
                self._once(key, partial(_send_picture, name=name, path=path, step=step))

    def close(self) -> None:
        """Close the trackers at the end of this process."""
        if self._writers:
            self._save()
            self._each(lambda writer: writer.close())
        self._writers = None

    def _send_once(self, key: str, values: Mapping[str, float], step: int) -> None:
        if values:
            self._once(key, lambda writer: writer.scalars(values, step))

    def _once(self, key: str, send: Callable[[Writer], None]) -> None:
        """Send something to those trackers that do not have it."""
        if not any(key not in self._known.get(name, {}).get("sent", ()) for name in writer_names(self._names)):
            return
        self.open()
        done = [
            writer
            for writer in list(self._writers or ())
            if key not in self._known[writer.name]["sent"] and self._try(writer, send)
        ]
        for writer in done:
            self._known[writer.name]["sent"][key] = None
            append_line(self._root / SENT, json.dumps([writer.name, key]), sync=False)

    def _each(self, send: Callable[[Writer], None]) -> None:
        for writer in list(self._writers or ()):
            self._try(writer, send)

    def _try(self, writer: Writer, send: Callable[[Writer], None]) -> bool:
        """A tracker that fails is left alone until the next start; the run is worth more than its display."""
        try:
            send(writer)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            logger.warning(
                "the tracker '%s' failed (%s); results that it missed are sent at the next start", writer.name, what
            )
            self._writers = [other for other in self._writers or () if other is not writer]
            return False
        return True

    def _save(self) -> None:
        if self._writers:
            told = {name: {**entry, "sent": list(entry["sent"])} for name, entry in self._known.items()}
            write_json(self._root / FILE, told)
            (self._root / SENT).unlink(missing_ok=True)


def noted(root: Path) -> list[str]:
    """Trackers that earlier starts have told of a run, as in ``report_to``; without those that begin anew every time.

    Args:
        root: The run's directory.
    """
    return [name for name in _read(root) if name != ThroughTransformers.name]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those values that are finite numbers."""
    found = {name: value for name, value in values.items() if isinstance(value, (int, float))}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _latest(values: Sequence[Any]) -> Any:
    """The last entry that is known."""
    return next((value for value in reversed(values) if value is not None), None)


def _read(root: Path) -> dict[str, dict[str, Any]]:
    """What an earlier process has noted; a damaged file counts as empty, so that the trackers get new runs."""
    file, sent = root / FILE, root / SENT
    damaged = (RunStateError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
    try:
        value = json.loads(read_file(file)) if file.is_file() else {}
        known: dict[str, dict[str, Any]] = {
            name: {"id": entry["id"], "sent": dict.fromkeys(map(str, entry["sent"]))} for name, entry in value.items()
        }
    except damaged:
        return {}
    try:
        for line in read_file(sent).splitlines() if sent.is_file() else ():
            name, key = json.loads(line)
            known[name]["sent"][str(key)] = None
    except damaged:  # a line that was torn, the last one
        pass
    return known


def _send_picture(writer: Writer, name: str, path: Path, step: int) -> None:
    writer.picture(name, path, step)
