"""``cl-plugins matrix import``: scores of another program, as a directory that the report takes for a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

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
from .result_files import Measured, chosen, read_result_file


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
    return _write(out, tasks, rows, used, counts, [path], method=method, stream=stream, seed=seed)


def import_results(
    files: Sequence[tuple[str, Path]],
    out: Path,
    *,
    method: str,
    stream: str,
    names: Mapping[str, str] | None = None,
    metrics: Mapping[str | None, str] | None = None,
    scorers: Mapping[str | None, str] | None = None,
    items: Mapping[str | None, int] | None = None,
    seed: int | None = None,
    scale: float | None = None,
) -> AccuracyMatrix:
    """Read result files of evaluation harnesses, one or more for every row, as `import_matrix` reads a table.

    Args:
        files: Row (as in a table) and file, in the order of learning.
        out: A new directory.
        method: Name of the method; any.
        stream: Name of the stream; any.
        names: Column -> the program's name of the task; without it the columns are the tasks that the files have.
        metrics: Column -> metric; under None the one of all other columns; without one the first of the file.
        scorers: Column -> what the scores are called; by default program, task and metric.
        items: Column -> number of items, where the files do not say.
        seed: The seed, if it is known.
        scale: What scores are multiplied with where their program writes fractions as well as percentages (VLMEvalKit).

    Returns:
        The matrix.

    Raises:
        DataError: With everything that is wrong with the files.
    """
    problems: list[Problem] = []
    read: list[tuple[str, Path, list[Measured]]] = []
    for label, path in files:
        try:
            read.append((label, path, read_result_file(path)))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(few(problems))
    trained = [label.removeprefix("after_") for label, _ in files if _words(label) not in (ZERO_SHOT, JOINT)]
    measured = list(dict.fromkeys(each.task for _, _, found in read for each in found))
    wanted = dict(names or {task: task for task in dict.fromkeys([*trained, *measured])})
    tasks = [task for task in dict.fromkeys(trained) if task in wanted]
    tasks += [task for task in wanted if task not in tasks]
    problems += _head_problems("--task", tasks)
    problems += _option_problems(tasks, {None: "", **(scorers or {})}, items or {}, metrics or {})
    if problems:
        raise DataError(few(problems))
    cells: dict[str, dict[str, Measured]] = {}
    for label, path, found in read:
        row = _row_name(label, tasks)
        if row is None:
            known = ", ".join([ZERO_SHOT, *tasks, JOINT])
            fix = f"Rows: {known}. Name the program's task with `--task {label}=NAME`."
            problems.append(Problem(f"{label}={path}", f"names the row {label!r}, which is no column.", fix))
            continue
        for task in tasks:
            metric = (metrics or {}).get(task, (metrics or {}).get(None))
            try:
                one = chosen(path, found, wanted[task], metric)
            except DataError as error:
                problems += error.problems
                continue
            if one is not None and task in cells.setdefault(row, {}):
                problems.append(Problem(f"{label}={path}", f"measures {task} again in this row.", "Leave one out."))
            if one is not None:
                cells[row][task] = one
        cells.setdefault(row, {})
    problems += _unmeasured(tasks, wanted, cells)
    problems += _unlike(tasks, cells)
    problems += _row_problems("the files", tasks, [row for row in cells if row != ZERO_SHOT])
    if problems:
        raise DataError(few(problems))
    open_cells = {row: {t: c.value for t, c in line.items() if c.percent is None} for row, line in cells.items()}
    table: dict[str, Row] = {row: [line.get(task) for task in tasks] for row, line in open_cells.items()}
    scaled = _scaled(Path(", ".join(path.name for _, path in files)), table, scale)
    rows: dict[str, Row] = {}
    for row, line in cells.items():
        whole = [None if (cell := line.get(task)) is None else cell.value for task in tasks]
        rows[row] = [b if a is None else a for a, b in zip(scaled[row], whole, strict=True)]
    first = {task: line[task] for line in reversed(list(cells.values())) for task in tasks if task in line}
    given = scorers or {}
    used = {task: given.get(task, given.get(None, first[task].scorer)) for task in tasks}
    counted = {task: first[task].n for task in tasks}
    counts = {
        task: count
        for task in tasks
        if (count := (items or {}).get(task, (items or {}).get(None, counted[task]))) is not None
    }
    return _write(out, tasks, rows, used, counts, [path for _, path in files], method=method, stream=stream, seed=seed)


def _unmeasured(tasks: Sequence[str], wanted: Mapping[str, str], cells: Mapping[str, Any]) -> list[Problem]:
    """Columns that no file has measured."""
    lacking = [task for task in tasks if not any(task in line for line in cells.values())]
    fix = "Name the program's task, as in `--task path=vqa_path`."
    return [Problem("--task", f"no file has measured {wanted[task]!r} (column {task!r}).", fix) for task in lacking]


def _unlike(tasks: Sequence[str], cells: Mapping[str, Mapping[str, Measured]]) -> list[Problem]:
    """Columns whose rows are by different programs or metrics."""
    found = []
    for task in tasks:
        scorers = sorted({line[task].scorer for line in cells.values() if task in line})
        if len(scorers) > 1:
            what = f"the rows of {task} are by different measures: {', '.join(scorers)}."
            found.append(Problem("--metric", what, "Choose one metric that all files have."))
    return found


def _write(
    out: Path,
    tasks: Sequence[str],
    rows: Mapping[str, Row],
    used: Mapping[str, str],
    counts: Mapping[str, int],
    files: Sequence[Path],
    *,
    method: str,
    stream: str,
    seed: int | None,
) -> AccuracyMatrix:
    """Write matrix, metrics and ``run.json`` of an import."""
    names = [name for name in rows if name != ZERO_SHOT]
    matrix = AccuracyMatrix(
        stream=stream,
        method=method,
        tasks=list(tasks),
        scorers={task: scorer_key(name, task) for task, name in used.items()},
        n=dict(counts),
        zero_shot=rows.get(ZERO_SHOT, [None] * len(tasks)),
        scores=[rows[name] for name in names],
        rows=None if names == [row_name(task) for task in tasks] else names,
        test_only=[] if names == [JOINT] else [task for task in tasks if row_name(task) not in names],
    )
    foreign = sorted({name for name in used.values() if not _is_ours(name)})
    named = ", ".join(dict.fromkeys(path.name for path in files))
    hashes = [digest(path) for path in files]
    whole = hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()
    source = {"file": named, "sha256": whole}
    write_matrix(out, matrix)
    write_run(
        out,
        {
            # with the hash, so that two imports are never one recipe
            "recipe": {"imported": f"{named} {whole[:8]}", "cl": {"method": {"name": method}}},
            "stream": {"name": stream, "tasks": [{"name": task} for task in tasks]},
            "method": method,
            "seed": seed,
            "imported": source,
            "notes": [
                f"The scores were imported from {named}. Their answers are not here, so they were not checked and "
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
    words = _words(label)
    return words if words in (ZERO_SHOT, JOINT) else None


def _words(label: str) -> str:
    """A label as the names of rows are written."""
    return label.lower().replace("-", "_").replace(" ", "_")


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
    tasks: Sequence[str],
    scorers: Mapping[str | None, str],
    items: Mapping[str | None, int],
    metrics: Mapping[str | None, str] | None = None,
) -> list[Problem]:
    found = []
    for option, given in (("--scorer", scorers), ("--items", items), ("--metric", metrics or {})):
        for task in given:
            if task is not None and task not in tasks:
                found.append(Problem(option, f"names the unknown task {task!r}.", f"Tasks: {', '.join(tasks)}."))
    lacking = [task for task in tasks if task not in scorers and None not in scorers]
    if lacking:
        fix = "Name it, as in `--scorer accuracy` or `--scorer path=accuracy rad=bleu`."
        found.append(Problem("--scorer", f"names no scorer for {', '.join(lacking)}.", fix))
    return found
