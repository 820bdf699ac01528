"""How a run takes possession of its directory: recovery, comparison with what it was made for, ``run.json``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import ranks
from ..base.errors import ClPluginsError, Problem, RunStateError
from ..base.files import recover_directory, remove_leftovers
from ..base.logs import logger
from ..base.schema import defaults, json_value
from ..base.secrets import failure, masked
from ..base.words import either, restore, words
from ..contract.carry import Carry
from ..contract.host import Host
from ..records.files import check_folders
from ..records.run import RUN, read_run, write_run
from . import prepare, record, sender
from .data_sets import data_records
from .journal import Journal
from .open_settings import batch_changes, measured_tasks
from .plan import JOINT, ORACLE
from .recover import adopt_carry, adopt_deletions
from .state import RunState


KEPT = (
    "peak_memory_bytes",
    "seconds",
    "sizes",
    "merge_error",
    "numbers",
    "training_data",
    "test_data",
    "validation",
)  # of the last start, until this one is done


@dataclass(frozen=True)
class Opening:
    """What was found, and what `begin` will write.

    Attributes:
        value: The new ``run.json``.
        appended: Names of tasks that the stream has gained.
        anew: Checkpoints that no longer belong to the recipe.
    """

    value: dict[str, Any]
    appended: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()


def open_directory(state: RunState, earlier: Carry | None = None) -> Opening:
    """Recover from a crash and compare with what the directory was made for; writes nothing new.

    While no step is finished and no checkpoint is there, nothing can be lost, and the recipe may be changed freely.
    After a task's training has failed, its own keys and its own training data may be.

    Args:
        state: The run.
        earlier: The carry that ``carry_from`` names.

    Raises:
        RunStateError: If the directory was made with another recipe or from another carry, or a finished file is
            damaged.
    """
    root = state.root
    check_folders(root)
    for name in ("carry", "final"):
        recover_directory(root / name)
    remove_leftovers(root)
    journal = Journal(root)
    hashes = data_records(state.host, state.host_keys, state.config, state.hashes)
    now = record.identity(state.host_keys, state.config, state.base_fingerprint, hashes)
    if earlier is not None:
        now["began_with"] = {"sha256": earlier.identity, "tasks": list(earlier.tasks)}
    old = _read(root)
    if not old and journal.entries:
        what = "is missing, although steps are finished."
        raise RunStateError(Problem(str(root / "run.json"), what, restore()))
    appended: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    if old:
        failed = _failed_task(old, journal)
        checkpoints = tuple(str(p.relative_to(root)) for p in sorted(root.glob("tasks/*/checkpoint-*")))
        if not journal.entries and not checkpoints:
            pass  # nothing is finished: the current recipe becomes the recipe of the directory
        else:
            _check_origin(state, old, now)
            measured = measured_tasks(journal.entries)
            appended = record.compare(old, now, root, failed, _open_keys(state.host, journal), measured)
            _check_joint(state, journal, appended)
            for line in batch_changes(old["recipe"], now["recipe"], measured):
                logger.warning("%s", line)
            if failed and not appended and record.changed(old, now, measured):
                anew = checkpoints
                logger.info("task '%s', whose training failed, starts again with the changes", failed)
        for line in record.version_changes(old.get("versions", {}), record.versions()):
            logger.warning("version changed since this run began: %s", line)
        if appended:
            logger.info("appended to the stream: %s", ", ".join(appended))
    adopted = adopt_carry(root, journal)
    adopted = adopt_deletions(root, journal) or adopted
    damaged = journal.damaged()
    if damaged:
        raise RunStateError(damaged)
    if adopted:
        journal.rewrite()
    value = {
        **now,
        "method": state.config.method,
        "seed": int(state.host_keys.get("seed", 42)),
        "method_options": masked(_plain(dataclasses.asdict(state.method.config))),
        "method_defaults": masked(_plain(defaults(type(state.method.config)))),
        "notes": [*state.config.stream.notes, *state.method.notes(), *_remarks(state, journal, earlier)],
        "versions": record.versions(),
        "hardware": record.hardware(),
        **{k: old[k] for k in KEPT if k in old},
    }
    return Opening(value, appended, anew)


def _check_origin(state: RunState, old: dict[str, Any], now: dict[str, Any]) -> None:
    """A run that began with one site's carry cannot be resumed with another's.

    Raises:
        RunStateError: If ``carry_from`` names a carry with another content than at the first start.
    """
    before, after = old.get("began_with"), now.get("began_with")
    if before is None or after is None or before["sha256"] == after["sha256"]:
        return
    what = (
        f"is not the carry that {state.root} began with: it has the tasks {', '.join(after['tasks'])}, "
        f"and that one has {', '.join(before['tasks'])}."
    )
    fix = either("Give the same carry", words().elsewhere, words().anew)
    raise RunStateError(Problem(f"cl.carry_from: {state.config.block.carry_from}", what, fix))


def _check_joint(state: RunState, journal: Journal, appended: tuple[str, ...]) -> None:
    """A model that was trained on all tasks at once knows nothing of one that the stream has gained since.

    Raises:
        RunStateError: If an appended task has training data, and the joint training is finished.
    """
    added = [name for name in appended if state.config.stream.task(name).train]
    if state.schedule != "joint" or not added or f"train:{JOINT}" not in journal:
        return
    what = f"has trained all its tasks at once, without {', '.join(added)}; a task cannot be appended any more."
    raise RunStateError(Problem(str(state.root), what, either(words().anew, words().elsewhere)))


def _remarks(state: RunState, journal: Journal, earlier: Carry | None) -> list[str]:
    """What the reader of the results should know about how they came about; also logged."""
    found = []
    if skipped := prepare.skipped_tasks(state.config, earlier):
        found.append(
            f"The stream has {', '.join(skipped)} before {state.config.block.only}; the model was not trained on "
            f"{'it' if len(skipped) == 1 else 'them'}."
        )
    if earlier is not None:
        found += sender.remarks(state.config, sender.sender_of(earlier))
    counts = {
        key.removeprefix("train:"): int(entry.details["processes"])
        for key, entry in journal.entries.items()
        if key.startswith("train:") and isinstance(entry.details.get("processes"), int)
    }
    left = [task for task in trained_tasks(state) if f"train:{task}" not in journal]
    planned = {**counts, **dict.fromkeys(left, ranks.world_size())}
    if len(set(planned.values())) > 1:
        found.append(
            "The tasks were trained by different numbers of processes, so that their batches differ in size: "
            f"{', '.join(f'{task} by {number}' for task, number in planned.items())}."
        )
    for line in found:
        logger.warning("%s", line)
    return found


def trained_tasks(state: RunState) -> list[str]:
    """The trainings that the recipe requests, in order."""
    if state.schedule == "joint":
        return [JOINT]
    only = state.config.block.only
    return [only] if only is not None else list(state.config.stream.trained_names)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """A method's options as JSON."""
    return dict(json.loads(json.dumps(options, default=json_value)))


def begin(root: Path, opening: Opening) -> None:
    """Write ``run.json``, from here on the directory belongs to the recipe.

    Args:
        root: The output directory.
        opening: From `open_directory`.
    """
    for name in opening.anew:
        shutil.rmtree(root / name, ignore_errors=True)
    if opening.appended:  # before run.json: a kill between the two must not leave the old `finish` standing
        journal = Journal(root)
        forget_end(journal)
        journal.rewrite()
    write_run(root, opening.value)


def forget_end(journal: Journal) -> None:
    """Forget the steps that belong to the last task of a stream, which has become longer.

    Args:
        journal: Its entries are changed, its file is not.
    """
    for key in list(journal.entries):
        if key == "finish" or key.startswith(f"evaluate:{ORACLE}:"):
            journal.remove(key)


def note_failure(root: Path, step: str, error: Exception) -> None:
    """Keep in ``run.json`` which training failed, and why, without training data; the next start reads and drops it."""
    with contextlib.suppress(OSError, RunStateError):  # the disk may be what failed
        value = _read(root)
        if value:
            value["failed"] = {"step": step, "error": failure(error, own=ClPluginsError)}
            write_run(root, value)


def _read(root: Path) -> dict[str, Any]:
    """``run.json`` of an earlier start; empty if there is none."""
    return read_run(root) if os.path.lexists(root / RUN) else {}


def _failed_task(old: dict[str, Any], journal: Journal) -> str | None:
    step = str((old.get("failed") or {}).get("step", ""))
    return step.split(":")[1] if step.startswith("train:") and step not in journal else None


def _open_keys(host: Host, journal: Journal) -> frozenset[str]:
    """Host keys of single tasks, as long as none has been trained with them."""
    if any(step.startswith("train:") for step in journal.entries):
        return frozenset()
    return frozenset(info.key for info in host.key_table() if info.kind == "per_task")
