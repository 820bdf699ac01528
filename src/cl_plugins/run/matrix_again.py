"""``cl-plugins evaluate --matrix``: every row of the accuracy matrix again, of the models as they were after each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError
from ..base.logs import logger
from ..base.schema import nearest
from ..base.secrets import masked
from ..evaluation.matrix import AccuracyMatrix
from ..records.files import record_of
from ..records.results import ZERO_SHOT, row_name
from ..records.run import write_run
from . import parts, record
from .data_sets import FileHashes, data_records
from .evaluate import build_matrix, evaluate, write_matrix
from .evaluation_note import claim, other_data, test_data, tests_alone, told
from .plan import JOINT, ORACLE, Step
from .progress import Progress
from .reopen import carry_after, planned, read_record


if TYPE_CHECKING:
    from ..contract.carry import Carry
    from .state import RunState


def evaluate_matrix(
    state: RunState, root: Path, latest: Carry, names: Sequence[str], scratch: Path, after: str | None = None
) -> AccuracyMatrix:
    """Answer and score the test sets in every row that can be rebuilt, and write what a report is made of.

    The same call, after a kill, finds all answers that it had written.

    Args:
        state: From `reopen`; results go to its ``root``.
        root: The run's directory.
        latest: The run's carry.
        names: The tasks to test.
        scratch: An empty directory for the carries of earlier tasks.
        after: Measure the row of this task alone; None for all.

    Returns:
        The matrix.

    Raises:
        RunStateError: If the carry of a row cannot be rebuilt.
        RecipeError: If the run has not learned the task ``after``.
    """
    info = read_record(root)
    if after is not None and after not in latest.tasks:
        fix = f"{nearest(after, latest.tasks)} Learned: {', '.join(latest.tasks)}.".strip()
        raise RecipeError(Problem("--after", f"the run has no trained task {after!r}.", fix))
    known = latest.tasks if after is None else (after,)
    steps = _steps(state, root, latest, names, _rows(info, known), whole=after is None)
    tested = [step for step in steps if step.tests]
    for name in dict.fromkeys(str(step.task) for step in tested):
        state.tests(state.config.stream.task(name))  # all problems of the data, before the model is loaded
    hashes = FileHashes(state.root / ".data_hashes.json")
    data = test_data(state, names, hashes)
    claim(state, info, names, data, matrix="all rows" if after is None else f"after {after}")
    counts = {name: len(state.tests(state.config.stream.task(name))) for name in {str(s.task) for s in tested}}
    state.progress = Progress({step.key: ("evaluate", counts[str(step.task)]) for step in tested})
    files: dict[str, Any] = {}
    number = 0
    try:
        for row in dict.fromkeys(str(step.row) for step in tested):
            state.close_backend()
            state.carry = _carry(state, root, latest, row, scratch)
            for step in state.by_route([step for step in tested if step.row == row]):
                number += 1
                state.progress.begin(step, number, len(tested))
                artefacts, _ = evaluate(state, step, steps)
                files |= {name: dict(record_of(state.root / name).plain()) for name in artefacts}
                state.progress.end()
    finally:
        state.close_backend()
        state.progress.close()
    matrix = build_matrix(state.root, steps, state.config, state.scores, latest.tasks)
    write_matrix(state.root, matrix)
    write_run(state.root, {**_about(state, root, info, hashes, other_data(info, data)), "files": files})
    for step in tested:  # only now: the same command, killed and given again, finds all that it had answered
        parts.remove(state.root, str(step.row), str(step.task))
    return matrix


def _rows(info: dict[str, Any], wanted: Sequence[str]) -> list[str]:
    """The tasks after which the model is known."""
    given = (info.get("imported") or {}).get("tasks")
    found = [task for task in wanted if given is None or task in given]
    for task in wanted:
        if task not in found:
            logger.info("after %s: not measured, no checkpoint of its training was imported", task)
    return found


def _steps(
    state: RunState, root: Path, latest: Carry, names: Sequence[str], rows: Sequence[str], *, whole: bool
) -> list[Step]:
    """All trainings of a run's plan, and the tests of some rows; with the zero-shot row if they are the whole matrix."""
    kept = {JOINT if task == JOINT else row_name(task) for task in rows}
    kept |= {ZERO_SHOT, ORACLE} if whole else set()
    found = []
    for step in planned(root, state.config):
        trained = step.kind == "train" and step.task in latest.tasks and step.phase is None
        if trained or (step.kind == "evaluate" and step.row in kept and step.task in names):
            found.append(step)
    return found


def _carry(state: RunState, root: Path, latest: Carry, row: str, scratch: Path) -> Carry | None:
    """The carry that answers in a row."""
    if row == ZERO_SHOT:
        return None
    if row in (ORACLE, JOINT):
        return latest
    task = next(name for name in latest.tasks if row_name(name) == row)
    return carry_after(state, root, task, scratch / row)


def _about(
    state: RunState, root: Path, info: dict[str, Any], hashes: FileHashes, other: Sequence[str]
) -> dict[str, Any]:
    """``run.json`` of the results: that of the run, with what was tested here.

    Args:
        state: The run.
        root: Its directory.
        info: Its ``run.json``.
        hashes: Hashes that are known already.
        other: Tasks whose test sets are no longer those of the run.
    """
    config = state.config
    data = data_records(state.host, state.host_keys, tests_alone(config, config.stream.task_names), hashes)
    recipe = {**info["recipe"], "cl": {**info["recipe"]["cl"], "eval": asdict(config.block.eval)}}
    return {
        **{
            key: value for key, value in info.items() if key not in ("seconds", "sizes", "peak_memory_bytes", "failed")
        },
        "recipe": recipe,
        "stream": masked(asdict(config.stream)),
        "data": {**(info.get("data") or {}), **data},
        "notes": [
            *(info.get("notes") or []),
            f"All answers were given again, with the weights of the run {root.name}.",
            *([told(other)] if other else []),
        ],
        "versions": record.versions(),
        "hardware": record.hardware(),
    }
