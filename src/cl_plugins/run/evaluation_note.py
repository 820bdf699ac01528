"""``evaluation.json``: what the results in a folder of ``cl-plugins evaluate`` are of.

Results of another run, or of other settings, are not written beside them: their files have the same names, and nothing
in the folder would say which answers belong together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..base.files import write_json
from ..base.outside import read_json
from ..records.results import PREDICTIONS
from ..records.run import RUN
from ..report.setup import of_data_set
from .data_sets import FileHashes, data_records


if TYPE_CHECKING:
    from ..config import CLConfig
    from .state import RunState


NOTE = "evaluation.json"
_FORMAT = 1
_FIX = "Choose another `--out`, or remove this folder."


def test_data(state: RunState, names: Sequence[str], hashes: FileHashes) -> dict[str, dict[str, Any]]:
    """What identifies the content of test sets as they are now.

    Args:
        state: With the configuration of the evaluation.
        names: The tasks.
        hashes: Hashes that are known already.

    Returns:
        Task -> data set -> record, as in ``run.json``.
    """
    tested = tests_alone(state.config, names)
    data = data_records(state.host, state.host_keys, tested, hashes)
    return {task.name: _of_task(data, task.name, task.test) for task in tested.stream.tasks}


def tests_alone(config: CLConfig, names: Collection[str]) -> CLConfig:
    """The configuration of some tasks without what they train on.

    Args:
        config: The configuration.
        names: The tasks.
    """
    tasks = tuple(replace(task, train=(), valid=()) for task in config.stream.tasks if task.name in names)
    return replace(config, stream=replace(config.stream, tasks=tasks))


def other_data(info: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tasks whose test sets had another content in the run.

    Args:
        info: The run's ``run.json``.
        now: From `test_data`.
    """
    found = []
    for task, sets in now.items():
        recorded = _of_task(info.get("data") or {}, task, tuple(sets))
        if recorded != sets and any(value is not None for value in recorded.values()):
            found.append(task)
    return found


def _of_task(data: Mapping[str, Any], task: str, names: Sequence[str]) -> dict[str, Any]:
    return {name: of_data_set(data, task, name)[1] for name in names}


def told(other: Sequence[str]) -> str:
    """A sentence on the tasks of `other_data`."""
    return f"The test data of {', '.join(other)} differ from those of the run."


def claim(
    state: RunState,
    info: Mapping[str, Any],
    names: Sequence[str],
    data: Mapping[str, Any],
    *,
    row: str | None = None,
    matrix: str | None = None,
) -> None:
    """Take a folder for an evaluation, or go on with the one that it holds.

    Args:
        state: Its ``root`` is the folder.
        info: The run's ``run.json``.
        names: The tasks that are tested.
        data: From `test_data`.
        row: The row of a single model; such tests may be added to one another.
        matrix: Which rows of the matrix, in words; one folder holds one matrix.

    Raises:
        RunStateError: If the folder holds results of anything else.
    """
    out, config = state.root, state.config
    settings = asdict(config.block.eval)
    common = {key: settings[key] for key in ("max_items", "too_long", "backend", "backend_options")}
    tests = {}
    for name in names:
        task = config.stream.task(name)
        tests[f"{row or 'matrix'}/{name}"] = {
            "scorer": task.scorer,
            "max_new_tokens": config.max_new_tokens(name),
            "options_column": task.options_column,
            "data": _digest(data[name]),
            **common,
        }
    note = {"format": _FORMAT, "run": _digest(_identity(info)), "matrix": matrix, "tests": tests}
    found = _read(out)
    if found is not None:
        _compare(out, found, note)
        note["tests"] = {**found["tests"], **tests}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / NOTE, note)


def _identity(info: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run from another one, wherever its directory is."""
    recipe = {key: value for key, value in (info.get("recipe") or {}).items() if key != "output_dir"}
    return {"recipe": recipe, "base": (info.get("base") or {}).get("sha256"), "began": info.get("began_with")}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _read(out: Path) -> dict[str, Any] | None:
    """The note of a folder; None if the folder holds no results."""
    if not os.path.lexists(out / NOTE):
        if any(os.path.lexists(out / name) for name in (PREDICTIONS, RUN)):
            what = f"holds results, and no {NOTE} that says what they are of."
            raise RunStateError(Problem(str(out), what, _FIX))
        return None
    try:
        note = read_json(out / NOTE)
        if note["format"] != _FORMAT or not all(isinstance(test, dict) for test in note["tests"].values()):
            raise ValueError(f"format {note['format']!r}")
        return {"run": note["run"], "matrix": note["matrix"], "tests": dict(note["tests"])}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunStateError(Problem(str(out / NOTE), f"cannot be read ({error}).", _FIX)) from error


def _compare(out: Path, found: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    if found["run"] != note["run"]:
        raise RunStateError(Problem(str(out), "holds an evaluation of another run.", _FIX))
    if found["matrix"] != note["matrix"] or (note["matrix"] and set(found["tests"]) != set(note["tests"])):
        kind, now = (_kind(one) for one in (found, note))
        raise RunStateError(Problem(str(out), f"holds {kind}, and this is {now}.", _FIX))
    lines = [
        f"{test}: {key} was {was!r} and is {new[key]!r}" if key != "data" else f"{test}: its test set has changed"
        for test, new in note["tests"].items()
        for key, was in found["tests"].get(test, {}).items()
        if new.get(key) != was
    ]
    if lines:
        raise RunStateError(Problem(str(out), f"holds an evaluation with other settings: {'; '.join(lines)}.", _FIX))


def _kind(note: Mapping[str, Any]) -> str:
    tests = ", ".join(sorted({test.partition("/")[2] for test in note["tests"]}))
    return f"a matrix ({note['matrix']}) of {tests}" if note["matrix"] else f"tests of single models ({tests})"
