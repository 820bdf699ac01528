"""Deleting samples from the replay buffer of a run, all or nothing, so that the run accepts the new carry."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..base.files import recover_directory, remove_leftovers, write_with
from ..base.lock import RunLock
from ..base.words import restore
from ..contract.carry import FILE, Carry, CarryWriter
from ..records.carry import CarryRecord
from ..records.files import check_folders
from ..replay import store
from ..replay.keeping import remove_candidates
from ..replay.store import CANDIDATES, FOLDER, Buffer, Sample
from ..training.handover import file_records
from .journal import Journal
from .recover import adopt_carry, adopt_deletions
from .reopen import read_record


_UNITS = {"h": 1 / 24, "d": 1.0, "w": 7.0}


def kept_samples(root: Path) -> list[Sample]:
    """The samples in the replay buffer of a run.

    Args:
        root: The run's directory, or that of a `ContinualLearner`.

    Raises:
        RunStateError: If it is no run, or its carry is damaged.
    """
    if not _of_a_trainer(root):
        read_record(root)
    check_folders(root)
    if not _has_carry(root):
        return []
    carry = Carry.open(root / "carry")
    carry.verify()  # a buffer that the carry does not name would be called empty
    buffer = Buffer.open(carry)
    return list(buffer.samples) if buffer is not None else []


def kept_entries(root: Path) -> list[tuple[Sample, dict[str, Any]]]:
    """The samples in the replay buffer of a run, with their records.

    Args:
        root: The run's directory, or that of a `ContinualLearner`.

    Raises:
        RunStateError: As `kept_samples`, and if the records are damaged.
    """
    if not kept_samples(root):
        return []
    buffer = Buffer.open(Carry.open(root / "carry"))
    return buffer.entries() if buffer is not None else []


def host_keys(root: Path) -> dict[str, Any]:
    """The host keys that a run was made with; none for the directory of a `ContinualLearner`."""
    return {} if _of_a_trainer(root) else dict(read_record(root)["recipe"])


def forget(root: Path, unwanted: Callable[[Sample], bool], reason: str) -> list[Sample]:
    """Delete samples from a run: records, media, what a method stored with them, and their lines of the manifest.

    The next carry is written to a temporary folder and replaces the old one as a whole; it names the deletion, so that
    the journal can be repaired if the process is killed in between.

    Args:
        root: The run's directory, or that of a `ContinualLearner`, which has no journal.
        unwanted: Says which samples go.
        reason: ``delete`` or ``purge``, for carry and journal. They keep time, reason and numbers, and no ids.

    Returns:
        The samples that went.

    Raises:
        RunStateError: If it is no run, someone works on it, a file is damaged, or a task is between training and
            consolidation.
    """
    check_folders(root)
    if _of_a_trainer(root):
        with RunLock(root):
            recover_directory(root / "carry")
            remove_leftovers(root)
            remove_candidates(root)
            return _forget(root, unwanted, reason)
    read_record(root)
    with RunLock(root):
        recover_directory(root / "carry")
        remove_leftovers(root)
        journal = Journal(root)
        adopted = adopt_carry(root, journal) if (root / "carry" / "carry.json").is_file() else False
        if adopt_deletions(root, journal) or adopted:
            journal.rewrite()
        _check_settled(root)
        gone = _forget(root, unwanted, reason)
        if gone:
            adopt_deletions(root, journal)
            journal.rewrite()
        return gone


def _of_a_trainer(root: Path) -> bool:
    """Whether a `ContinualLearner` made the directory: a carry, or a task on its way there, and no run around it."""
    return any((root / name).is_dir() for name in ("carry", "tasks")) and not (root / "run.json").exists()


def _has_carry(root: Path) -> bool:
    """Whether there is a carry, whole or damaged.

    Raises:
        RunStateError: If there is none though the journal names one.
    """
    if os.path.lexists(root / "carry"):
        return True
    if f"carry/{FILE}" in Journal(root).latest():
        fix = restore("Restore it from a copy")
        raise RunStateError(Problem(str(root / "carry"), "is missing, although its step is finished.", fix))
    return False


def _forget(root: Path, unwanted: Callable[[Sample], bool], reason: str) -> list[Sample]:
    """Put a carry without the samples into its place."""
    if not _has_carry(root):
        return []
    carry = Carry.open(root / "carry")
    carry.verify()
    buffer = Buffer.open(carry)
    if buffer is None or not any(map(unwanted, buffer.samples)):
        return []
    gone: list[Sample] = []
    write_with(root / "carry", lambda folder: gone.extend(_write(folder, carry, buffer, unwanted, reason)))
    return gone


def _check_settled(root: Path) -> None:
    """A task that is trained and not consolidated has its samples elsewhere; one more second of the run settles it."""
    left = sorted(path.parent.name.partition("_")[2] for path in root.glob(f"tasks/*/{CANDIDATES}"))
    if left:
        names = ", ".join(left)
        what = f"was stopped before the samples of task {names} were in the buffer."
        fix = "Start the run again with `cl.stop_after=1` (it takes seconds), then delete."
        raise RunStateError(Problem(str(root), what, fix))


def _write(
    folder: Path, carry: Carry, buffer: Buffer, unwanted: Callable[[Sample], bool], reason: str
) -> list[Sample]:
    folder.mkdir(parents=True)
    writer = CarryWriter(folder)
    for name in carry.files:
        if not name.startswith(f"{FOLDER}/"):
            writer.link(carry.file(name), name)
    gone = store.without(writer, buffer, unwanted)
    content = CarryRecord.read(carry.path / FILE).model_dump(exclude_unset=True)
    entry: dict[str, Any] = {
        "key": f"replay-{reason}:{uuid.uuid4().hex[:12]}",
        "samples": dict(Counter(sample.task for sample in gone)),
    }
    content["files"] = file_records(writer)
    content["deletions"] = [*content.get("deletions", []), entry]
    CarryRecord.write(folder / FILE, content, indent=2)
    return gone


def older_than(text: str, now: datetime | None = None) -> Callable[[Sample], bool]:
    """A test for samples of at least an age.

    A sample whose date cannot be read, or is more than a day in the future, has an unknown age: it counts as
    older than any, since a purge is there to leave nothing that is too old. Clocks of two sites may differ by less.

    Args:
        text: An age such as ``30d``, ``12h`` or ``4w``; ``0h`` for all samples.
        now: The present.

    Raises:
        ValueError: If it is not an age.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is not an age such as 30d, 12h or 4w")
    try:
        present, age = now or datetime.now(UTC), timedelta(days=float(number) * _UNITS[unit])
    except OverflowError as error:
        raise ValueError(f"{text[:20]!r} is longer than any age") from error

    def old(sample: Sample) -> bool:
        try:
            stored = datetime.fromisoformat(sample.stored)
        except (TypeError, ValueError):
            return True
        stored = stored if stored.tzinfo is not None else stored.replace(tzinfo=UTC)
        return stored > present + timedelta(days=1) or max(present - stored, timedelta()) >= age

    return old
