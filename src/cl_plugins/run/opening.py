"""How a run takes possession of its directory: recovery, comparison with what it was made for, ``run.json``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..base.files import recover_directory, remove_leftovers, write_json
from ..base.logs import logger
from . import prepare, record
from .journal import Journal
from .recover import adopt_carry, adopt_deletions
from .state import RunState


KEPT = (
    "peak_memory_bytes",
    "seconds",
    "sizes",
    "merge_error",
    "training_data",
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


def open_directory(state: RunState) -> Opening:
    """Recover from a crash and compare with what the directory was made for; writes nothing new.

    While no step is finished and no checkpoint is there, nothing can be lost, and the recipe may be mended freely.
    After a task's training has failed, its own keys and its own training data may be.

    Raises:
        RunStateError: If the directory was made with another recipe, or a finished file is damaged.
    """
    root = state.root
    for name in ("carry", "final"):
        recover_directory(root / name)
    remove_leftovers(root)
    journal = Journal(root)
    hashes = prepare.data_hashes(state.host_keys, state.config, lambda: state.run_args)
    now = record.identity(state.host_keys, state.config, state.base_fingerprint, hashes)
    old = _read(root / "run.json")
    if not old and journal.entries:
        fix = "Restore the file from a copy, or start again with `cl.restart: true`."
        raise RunStateError(Problem(str(root / "run.json"), "is missing though steps are finished.", fix))
    appended: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    if old:
        failed = _failed_task(old, journal)
        checkpoints = tuple(str(p.relative_to(root)) for p in sorted(root.glob("tasks/*/checkpoint-*")))
        if not journal.entries and not checkpoints:
            pass  # nothing is finished: whatever the recipe says now is what the directory is made for
        else:
            appended = record.compare(old, now, root, failed, _open_keys(journal))
            if failed and not appended and record.changed(old, now):
                anew = checkpoints
                logger.info("task '%s', whose training failed, begins anew with what was changed", failed)
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
        "format": record.FORMAT,
        **now,
        "method": state.config.method,
        "seed": int(state.host_keys.get("seed", 42)),
        "method_options": _plain(state.method.config),
        "notes": [*state.config.stream.notes, *state.method.notes()],
        "versions": record.versions(),
        "hardware": record.hardware(),
        **{k: old[k] for k in KEPT if k in old},
    }
    return Opening(value, appended, anew)


def _plain(options: Any) -> dict[str, Any]:
    """A method's options with their defaults, as JSON."""
    return dict(json.loads(json.dumps(dataclasses.asdict(options), default=str)))


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
        journal.entries.pop("finish", None)
        journal.rewrite()
    write_json(root / "run.json", opening.value)


def note_failure(root: Path, step: str, error: Exception) -> None:
    """Keep in ``run.json`` which training failed, and why; the next start reads and drops it."""
    with contextlib.suppress(OSError):  # the disk may be what failed
        value = _read(root / "run.json")
        if value:
            value["failed"] = {"step": step, "error": f"{type(error).__name__}: {error}"[:2000]}
            write_json(root / "run.json", value)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        fix = "Restore it from a copy, or start again with `cl.restart: true`."
        raise RunStateError(Problem(str(path), f"cannot be read ({error}).", fix)) from error
    return dict(value)


def _failed_task(old: dict[str, Any], journal: Journal) -> str | None:
    step = str((old.get("failed") or {}).get("step", ""))
    return step.removeprefix("train:") if step.startswith("train:") and step not in journal else None


def _open_keys(journal: Journal) -> frozenset[str]:
    """Host keys of single tasks, as long as none has been trained with them."""
    from ..host.keys import key_table

    if any(step.startswith("train:") for step in journal.entries):
        return frozenset()
    return frozenset(info.key for info in key_table() if info.kind == "per_task")
