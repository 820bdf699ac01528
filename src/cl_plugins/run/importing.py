"""``cl-plugins matrix import``: an accuracy matrix of another program, as a directory that the report takes for a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base.errors import DataError, Problem
from ..base.files import digest
from ..base.outside import YAML_LIMIT, OutsideError, read_text
from ..evaluation.matrix import AccuracyMatrix, Row
from ..evaluation.scorers import SCORERS, get_scorer
from ..records.record import few
from ..records.results import JOINT, ZERO_SHOT, row_name
from ..records.run import write_run
from ..streams import Task
from .evaluate import write_matrix


_EMPTY = frozenset({"", "-", "–", "—", "null", "none", "nan", "n/a"})


def import_matrix(
    path: Path,
    out: Path,
    *,
    method: str,
    stream: str,
    scorers: Mapping[str | None, str],
    items: Mapping[str | None, int] | None = None,
    seed: int | None = None,
    scale: float | None = None,
) -> AccuracyMatrix:
    """Read a matrix and write it as a directory that `cl-plugins report` and `compare` take.

    Args:
        path: The CSV file: a head with the tasks in the order of learning, and one row per measurement, whose first
            field is ``zero_shot``, the task that had just been trained, or ``joint``.
        out: A new directory.
        method: Name of the method; any.
        stream: Name of the stream; any.
        scorers: Task to the name of its scorer; under None the one of all other tasks.
        items: Task to its number of test items, likewise; those that are missing are not known.
        seed: The seed, if it is known.
        scale: What the scores are multiplied with: 1 for percentages, 100 for fractions. None: 1, and a table that may
            hold fractions is refused.

    Returns:
        The matrix.

    Raises:
        DataError: With everything that is wrong with the file.
    """
    tasks, rows = read_table(path)
    rows = _scaled(path, rows, scale)
    problems = _option_problems(tasks, scorers, items or {})
    if problems:
        raise DataError(few(problems))
    used = {task: scorers.get(task, scorers.get(None, "")) for task in tasks}
    counts = {task: count for task in tasks if (count := (items or {}).get(task, (items or {}).get(None))) is not None}
    names = [name for name in rows if name != ZERO_SHOT]
    matrix = AccuracyMatrix(
        stream=stream,
        method=method,
        tasks=tasks,
        scorers={task: scorer_key(name, task) for task, name in used.items()},
        n=counts,
        zero_shot=rows.get(ZERO_SHOT, [None] * len(tasks)),
        scores=[rows[name] for name in names],
        rows=None if names == [row_name(task) for task in tasks] else names,
        test_only=[] if names == [JOINT] else [task for task in tasks if row_name(task) not in names],
    )
    foreign = sorted({name for name in used.values() if not _is_ours(name)})
    source = {"file": path.name, "sha256": digest(path)}
    write_matrix(out, matrix)
    write_run(
        out,
        {
            # with the hash, so that two imports are never one recipe
            "recipe": {"imported": f"{path.name} {source['sha256'][:8]}", "cl": {"method": {"name": method}}},
            "stream": {"name": stream, "tasks": [{"name": task} for task in tasks]},
            "method": method,
            "seed": seed,
            "imported": source,
            "notes": [
                f"The scores were imported from {path.name}. Their answers are not here, so they were not checked and "
                "have no intervals.",
                *([f"Scored by rules of another program: {', '.join(foreign)}."] if foreign else []),
            ],
        },
    )
    return matrix


def scorer_key(name: str, task: str) -> str:
    """``name@version`` of a scorer of this package; another name as it is.

    Args:
        name: With or without a version.
        task: The task, whose rule ``peer:<library>`` takes.

    Raises:
        RecipeError: If this package has the scorer, and not in that version or rule.
    """
    return get_scorer(name, where="--scorer", task=task).key if _is_ours(name) else name


def _is_ours(name: str) -> bool:
    return name.startswith("peer:") or name.partition("@")[0].partition(":")[0] in SCORERS.names()


def read_table(path: Path) -> tuple[list[str], dict[str, Row]]:
    """The tasks and the rows of a CSV file, the rows by their names in ``matrix.json``.

    Args:
        path: The file.

    Raises:
        DataError: With everything that is wrong with it.
    """
    fix = "See `cl-plugins matrix import --help` for the form of the file."
    try:
        lines = list(csv.reader(io.StringIO(read_text(path, YAML_LIMIT)), strict=True))
    except FileNotFoundError as error:
        raise DataError(Problem(str(path), "does not exist.", "Check the path.")) from error
    except (OSError, OutsideError, csv.Error) as error:
        raise DataError(Problem(str(path), f"cannot be read as CSV ({error}).", fix)) from error
    table = [(number, [_plain(cell) for cell in line]) for number, line in enumerate(lines, start=1) if any(line)]
    if len(table) < 2:
        raise DataError(Problem(str(path), "holds no table.", fix))
    tasks = table[0][1][1:]
    problems = _head_problems(f"{path}:{table[0][0]}", tasks)
    if problems:
        raise DataError(few(problems))
    rows: dict[str, Row] = {}
    for number, line in table[1:]:
        where = f"{path}:{number}"
        name = _row_name(line[0], tasks)
        if name is None:
            known = ", ".join([ZERO_SHOT, *tasks, JOINT])
            problems.append(Problem(where, f"begins with {line[0]!r}, which is no row.", f"Rows: {known}."))
            continue
        if name in rows:
            problems.append(Problem(where, f"is the row '{line[0]}' again.", "Keep one of them."))
        if len(line) != len(tasks) + 1:
            what = f"has {len(line) - 1} scores for {len(tasks)} tasks."
            problems.append(Problem(where, what, "Give one field per task; an empty one where nothing was measured."))
            continue
        rows[name] = [_score(f"{where}, {task}", cell, problems) for task, cell in zip(tasks, line[1:], strict=True)]
    problems += _row_problems(str(path), tasks, [name for name in rows if name != ZERO_SHOT])
    if problems:
        raise DataError(few(problems))
    return tasks, rows


def _plain(cell: str) -> str:
    """A field without white space, and without the apostrophe that keeps a spreadsheet from computing it."""
    cell = cell.strip()
    return cell[1:] if cell[:1] == "'" and cell[1:2] in ("=", "+", "-", "@") else cell


def _row_name(label: str, tasks: Sequence[str]) -> str | None:
    if label in tasks:
        return row_name(label)
    if label.removeprefix("after_") in tasks:
        return label
    words = label.lower().replace("-", "_").replace(" ", "_")
    return words if words in (ZERO_SHOT, JOINT) else None


def _head_problems(where: str, tasks: Sequence[str]) -> list[Problem]:
    found = [] if tasks else [Problem(where, "names no task.", "Give one column per task behind the first one.")]
    for task in tasks:
        found += Task(name=task).name_problems(f"{where}, task {task!r}")
    found += [
        Problem(where, f"names the task {task!r} twice.", "Task names are unique.")
        for task in dict.fromkeys(tasks)
        if tasks.count(task) > 1
    ]
    return found


def _row_problems(where: str, tasks: Sequence[str], names: Sequence[str]) -> list[Problem]:
    if not names:
        return [Problem(where, "has no row after a training.", "Add the rows that were measured after each task.")]
    if JOINT in names:
        if len(names) > 1:
            return [Problem(where, f"has the row '{JOINT}' beside others.", "Import it as a run of its own.")]
        return []
    order = [row_name(task) for task in tasks if row_name(task) in names]
    if list(names) != order:
        what = "has its rows in another order than its columns."
        return [Problem(where, what, "Put both into the order in which the tasks were learned.")]
    return []


def _score(where: str, cell: str, problems: list[Problem]) -> float | None:
    if cell.lower() in _EMPTY:
        return None
    try:
        value = float(cell.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        problems.append(Problem(where, f"{cell!r} is not a score.", "Scores are numbers from 0 to 100, or empty."))
        return None
    return value


def _scaled(path: Path, rows: Mapping[str, Row], scale: float | None) -> dict[str, Row]:
    """The rows as percentages."""
    most = max((value for row in rows.values() for value in row if value is not None), default=0.0)
    if scale is None and 0 < most <= 1:
        what = f"has no score above {most:g}: fractions, or percentages of a model that gets nothing right?"
        raise DataError(Problem(str(path), what, "Add `--scale 100` for fractions, `--scale 1` for percentages."))
    factor = 1.0 if scale is None else scale
    if most * factor > 100:
        what = f"has the score {most:g}, which `--scale {factor:g}` makes {most * factor:g}."
        raise DataError(Problem(str(path), what, "Leave `--scale` out: the scores are percentages."))
    return {name: [None if v is None else v * factor for v in row] for name, row in rows.items()}


def _option_problems(
    tasks: Sequence[str], scorers: Mapping[str | None, str], items: Mapping[str | None, int]
) -> list[Problem]:
    found = []
    for option, given in (("--scorer", scorers), ("--items", items)):
        for task in given:
            if task is not None and task not in tasks:
                found.append(Problem(option, f"names the unknown task {task!r}.", f"Tasks: {', '.join(tasks)}."))
    lacking = [task for task in tasks if task not in scorers and None not in scorers]
    if lacking:
        fix = "Name it, as in `--scorer accuracy` or `--scorer path=accuracy rad=bleu`."
        found.append(Problem("--scorer", f"names no scorer for {', '.join(lacking)}.", fix))
    return found
