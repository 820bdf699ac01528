"""How far a run is, who works on it, and whether its files are whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RecipeError, RunStateError
from ..base.lock import holder
from ..contract.carry import Carry, carry_directory
from ..evaluation.results import result_problems
from ..records.run import JOURNAL
from .journal import Journal
from .reopen import planned, read_recipe, read_record


def collect(root: Path, *, verify: bool = False) -> dict[str, Any]:
    """The state of a run; plain JSON types but for the problems under ``damaged``.

    Args:
        root: The run's directory.
        verify: Whether to compare hashes; ``damaged`` is None without it.

    Raises:
        RunStateError: If it is no run.
    """
    record = read_record(root)
    journal = Journal(root)
    left = [name for name in ("carry", "final", "matrix.json") if os.path.lexists(root / name)]
    if not journal.entries and left and "files" not in record and "imported" not in record:
        what = f"is missing or empty, though there is {', '.join(left)}."
        raise RunStateError(Problem(str(root / JOURNAL), what, "Restore it from a copy."))
    note = ""
    keys: list[tuple[str, str]] = []
    try:
        keys = [(step.key, str(step.kind)) for step in planned(root, read_recipe(root, record)[1])]
    except RecipeError as error:
        note = f"The remaining steps cannot be listed here: {error}"
    keys += [(key, key.split(":")[0]) for key in journal.entries if key not in dict(keys)]
    over = "finish" in journal
    steps = []
    for key, kind in keys:
        entry = journal.entries.get(key)
        state = "finished" if entry else "not measured" if over and kind in ("evaluate", "probe") else "pending"
        steps.append(
            {
                "step": key,
                "state": state,
                "time": entry.time if entry else None,
                "seconds": entry.seconds if entry else None,
                "details": entry.details if entry else {},
            }
        )
    return {
        "format": 1,
        "run": str(root),
        "stream": record["stream"].get("name"),
        "method": record["method"],
        "seed": record.get("seed"),
        "finished": over,
        "seconds": sum(entry.seconds for entry in journal.entries.values()),
        "steps": steps,
        "locked_by": holder(root),
        "note": note,
        "damaged": damaged(root, journal) if verify else None,
    }


def damaged(root: Path, journal: Journal) -> list[Problem]:
    """Files of a run that differ from their hashes, and results that do not follow from the predictions.

    Args:
        root: The run's directory.
        journal: Its journal.
    """
    found = [*journal.damaged(full=True), *result_problems(root)]
    if os.path.lexists(root / "carry"):
        try:
            Carry.open(carry_directory(root)).verify()
        except RunStateError as error:
            found += error.problems
    return list(dict.fromkeys(found))
