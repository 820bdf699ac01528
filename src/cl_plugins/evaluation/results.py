"""The results of a run as its directory holds them, and whether they follow from its predictions.

The journal holds the hash of every predictions file and score file; the matrix must be what the score files give, and the
metrics what the matrix gives. Whoever prints a number of a run reads it through `read_results`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem, RunStateError
from ..records.files import FileRecord, file_problem
from ..records.record import read_file
from ..records.results import ORACLE, PREDICTIONS, PROBES, MetricPart, MetricsRecord
from ..records.run import JOURNAL, RUN, read_journal, read_run
from .drift import Drifts, drifts_of
from .items import TaskScore
from .matrix import AccuracyMatrix
from .metrics import continual_metrics, metrics_to_dict


MATRIX, METRICS = "matrix.json", "metrics.json"
_RESTORE = "Restore the file from a copy; a changed file is not used."
_AGAIN = "Start the run again: it rewrites matrix and metrics from its score files."
_NO_HASHES = "There is no journal with hashes here, so that changes of the files are not noticed."
_OF_RUNS = ("carry", "final", "tasks")  # what only the directory of a run has
_NAMED = 5  # cells in a remark
#: Rows that a process ends before it writes the matrix for several rows at once, and how many: it grows with every task.
SHORT, TOGETHER = 20, 10
Cell = tuple[str, str]


@dataclass(frozen=True)
class Results:
    """Matrix, metrics and scores of a run.

    Attributes:
        matrix: The accuracy matrix.
        metrics: Name -> metric; empty where the run has not written them yet.
        scores: (row, task) -> score, where a score file is known to belong to the cell.
        oracle: Task -> score of the last row's items with the true task's part (``cl.eval.oracle``).
        probes: Probe -> what it has measured (``cl.eval.probes``).
        info: ``run.json``; empty where there is none.
        remarks: What the reader should know, such as cells that are not in ``matrix.json`` yet.
    """

    matrix: AccuracyMatrix
    metrics: dict[str, MetricPart] = field(default_factory=dict)
    scores: dict[Cell, TaskScore] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    oracle: dict[str, TaskScore] = field(default_factory=dict)
    probes: Drifts = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Evidence:
    """What the matrix is compared with.

    Attributes:
        cells: The measured cells in the order in which they were measured.
        files: Hash of every file of theirs; None where the directory holds no hashes.
        source: The file with the hashes.
        probes: (row, probe) of the probes that were measured.
    """

    cells: list[Cell]
    files: dict[str, FileRecord] | None
    source: str = ""
    probes: tuple[Cell, ...] = ()


def read_results(root: Path) -> Results:
    """Read the results of a run, and compare each file with what it was computed from.

    The matrix is written when a row is complete, in a long stream for `TOGETHER` rows at once. Cells that were measured
    since, in a run that is at work or was killed, are put in from their score files.

    A directory without a journal (results that were copied out of a run, or made by another program) is read as it is,
    with a remark.

    Args:
        root: The run's directory.

    Raises:
        RunStateError: A file is missing, damaged, or was changed after it was written. Lists every problem.
    """
    problems: list[Problem] = []
    info: dict[str, Any] = _caught(problems, lambda: read_run(root) if os.path.lexists(root / RUN) else {}) or {}
    evidence = _caught(problems, lambda: _evidence(root, info))
    matrix = _caught(problems, lambda: _read_matrix(root))
    written = _caught(problems, lambda: _read_metrics(root))
    metrics = dict(written.metrics) if written is not None else {}
    if evidence is not None and evidence.files is not None:
        found = (file_problem(root, n, r, _RESTORE, evidence.source) for n, r in evidence.files.items())
        problems += [problem for problem in found if problem is not None]
    scores: dict[Cell, TaskScore] = {}
    broken = {problem.where for problem in problems}
    for cell in evidence.cells if evidence is not None else []:
        path = _score_path(root, cell)
        if str(path) not in broken:
            score = _caught(problems, lambda path=path: TaskScore.read(path))  # type: ignore[misc]
            if score is not None:
                scores[cell] = score
    probes = _read_probes(root, evidence, written, broken, problems)
    if problems or matrix is None or evidence is None:
        raise RunStateError(list(dict.fromkeys(problems)))
    told = {task: score for (row, task), score in scores.items() if row == ORACLE}
    scores = {cell: score for cell, score in scores.items() if cell[0] != ORACLE}
    results = Results(matrix, metrics, scores, info, told, probes)
    if evidence.files is None:
        return _loose(results)
    return _strict(root, results, evidence)


def result_problems(root: Path) -> list[Problem]:
    """What is wrong with the results of a run; nothing where it has no matrix yet.

    Args:
        root: The run's directory.
    """
    if not os.path.lexists(root / MATRIX) and not os.path.lexists(root / METRICS):
        return []
    try:
        read_results(root)
    except RunStateError as error:
        return error.problems
    return []


def _caught(problems: list[Problem], read: Any) -> Any:
    """What a reader gives; None after noting its problems."""
    try:
        return read()
    except (RunStateError, DataError) as error:
        problems += error.problems
        return None


def _read_matrix(root: Path) -> AccuracyMatrix:
    if not os.path.lexists(root / MATRIX):
        fix = "Give the output_dir of a run that has evaluated at least one task."
        raise RunStateError(Problem(str(root / MATRIX), "there is no such file.", fix))
    return AccuracyMatrix.read(root / MATRIX)


def _read_metrics(root: Path) -> MetricsRecord | None:
    path = root / METRICS
    if not os.path.lexists(path):
        return None
    return MetricsRecord.parse(read_file(path, MetricsRecord.FIX, DataError), str(path))


def _read_probes(
    root: Path, evidence: _Evidence | None, written: MetricsRecord | None, broken: set[str], problems: list[Problem]
) -> Drifts:
    """What the probes have measured: by their score files; by ``metrics.json`` where no list says which there are."""
    told = dict(written.probes) if written is not None else {}
    if evidence is None or evidence.files is None:
        return told
    scores = {}
    for cell in evidence.probes:
        path = _score_path(root, cell, PROBES)
        if str(path) not in broken:
            score = _caught(problems, lambda path=path: TaskScore.read(path))  # type: ignore[misc]
            if score is not None:
                scores[cell] = score
    found: Drifts = _caught(problems, lambda: drifts_of(scores)) or {}
    for name, probe in told.items():
        for row, part in probe.rows.items():
            known = found[name].rows.get(row) if name in found else None
            if part != known and str(_score_path(root, (row, name), PROBES)) not in broken:
                what = f"the probe '{name}' in row '{row}' does not follow from its score file."
                problems.append(Problem(str(root / METRICS), what, _AGAIN))
    return found


def _score_name(cell: Cell, place: str = PREDICTIONS) -> str:
    row, task = cell
    return f"{place}/{row}/{task}.score.json"


def _score_path(root: Path, cell: Cell, place: str = PREDICTIONS) -> Path:
    return root / _score_name(cell, place)


def _evidence(root: Path, info: dict[str, Any]) -> _Evidence:
    """The cells that were measured, by the journal; else by the table in ``run.json``; else by the files."""
    if os.path.lexists(root / JOURNAL):
        if not os.path.lexists(root / RUN):
            raise RunStateError(Problem(str(root / RUN), "is missing though steps are finished.", _RESTORE))
        files: dict[str, FileRecord] = {}
        cells: list[Cell] = []
        probes: list[Cell] = []
        for line in read_journal(root).steps:
            if line.step.startswith(("evaluate:", "probe:")):
                kind, row, task = line.step.split(":")
                files |= {n: r for n, r in line.artefacts.items() if n.startswith((f"{PREDICTIONS}/", f"{PROBES}/"))}
                (cells if kind == "evaluate" else probes).append((row, task))
        names = {f"evaluate:{row}:{task}": _score_name((row, task)) for row, task in cells}
        names |= {f"probe:{row}:{task}": _score_name((row, task), PROBES) for row, task in probes}
        lacking = [step for step, name in names.items() if name not in files]
        if lacking:
            what = f"names no score file for {', '.join(lacking)}."
            raise RunStateError(Problem(str(root / JOURNAL), what, _RESTORE))
        return _Evidence(cells, files, JOURNAL, tuple(probes))
    if info.get("files") is not None:
        table = {name: FileRecord.model_validate(record) for name, record in info["files"].items()}
        return _Evidence([c for name in table if (c := _cell_of(Path(name))) is not None], table, RUN)
    left = [name for name in _OF_RUNS if os.path.lexists(root / name)]
    if left and os.path.lexists(root / MATRIX):
        what = f"is missing, though there is {', '.join(left)}."
        raise RunStateError(Problem(str(root / JOURNAL), what, _RESTORE))
    paths = sorted((root / PREDICTIONS).glob("*/*.score.json"))
    return _Evidence([c for path in paths if (c := _cell_of(path.relative_to(root))) is not None], None)


def _cell_of(name: Path) -> Cell | None:
    """The cell that a score file belongs to."""
    if len(name.parts) != 3 or not name.name.endswith(".score.json"):
        return None
    return name.parts[1], name.name.removesuffix(".score.json")


def _loose(results: Results) -> Results:
    """Score files that fit the matrix, and a remark on each that does not."""
    remarks, scores = [], {}
    for (row, task), score in results.scores.items():
        held, scorer = _get(results.matrix, row, task), results.matrix.scorers.get(task)
        if held is None:
            continue
        if abs(held - score.score) > 1e-6 or (scorer is not None and score.scorer != scorer):
            remarks.append(
                f"predictions/{row}/{task}.score.json ({score.scorer}: {score.score}) differs from matrix.json "
                f"({scorer}: {held}); its interval and baselines are left out."
            )
        else:
            scores[row, task] = score
    return replace(results, scores=scores, remarks=(*remarks, _NO_HASHES))


def _strict(root: Path, results: Results, evidence: _Evidence) -> Results:
    """Refuse a matrix that is not what the score files give, and metrics that are not what the matrix gives."""
    matrix, scores = results.matrix, results.scores
    path = str(root / MATRIX)
    problems = _about_problems(path, results)
    late = _late(matrix, list(scores)) if evidence.source == JOURNAL else []
    for cell, score in scores.items():
        held = _get(matrix, *cell)
        task, where = cell[1], f"{path}, cell [{cell[0]}][{cell[1]}]"
        if cell in late:
            if not matrix.n.get(task):  # the first cell of its task
                continue
        elif held != score.score:
            problems.append(Problem(where, f"is {held}, but the score file has {score.score}.", _AGAIN))
        if (found := matrix.scorers.get(task)) != score.scorer:
            problems.append(Problem(where, f"is by {found!r}, but the score file has {score.scorer!r}.", _AGAIN))
        if (count := matrix.n.get(task)) != score.n:
            problems.append(Problem(where, f"has {count} items, but the score file has {score.n}.", _AGAIN))
    for row in ["zero_shot", *matrix.row_names()]:
        for task in matrix.tasks:
            if _get(matrix, row, task) is not None and (row, task) not in scores:
                where = f"{path}, cell [{row}][{task}]"
                problems.append(Problem(where, f"was not measured, by {evidence.source}.", _AGAIN))
    if problems:
        raise RunStateError(problems)
    written = [cell for cell in scores if cell not in late]
    metrics = results.metrics or _metrics_of(matrix)
    if not _same(metrics, _metrics_of(matrix)):
        if not any(_same(metrics, _metrics_of(earlier)) for earlier in _earlier(matrix, written)):
            raise RunStateError(Problem(str(root / METRICS), "does not follow from matrix.json.", _AGAIN))
        metrics = _metrics_of(matrix)
    if not late:
        return replace(results, metrics=metrics)
    full = _with(matrix, {cell: scores[cell] for cell in late})
    return replace(results, matrix=full, metrics=_metrics_of(full), remarks=(_remark(late),))


def _late(matrix: AccuracyMatrix, cells: Sequence[Cell]) -> list[Cell]:
    """The latest cells, if the matrix was written before they were measured.

    Args:
        matrix: The matrix as it is written.
        cells: The measured cells in their order.
    """
    found = len(cells)
    while found and cells[found - 1][1] in matrix.tasks and _get(matrix, *cells[found - 1]) is None:
        found -= 1
    return list(cells[found:])


def _earlier(matrix: AccuracyMatrix, cells: Sequence[Cell]) -> Iterator[AccuracyMatrix]:
    """The matrix as it may have been when it was written the last time: without the latest cells of its last rows."""
    earlier, rows = replace(matrix), set()
    for cell in reversed(cells):
        rows.add(cell[0])
        if len(rows) > TOGETHER:
            return
        earlier.set(*cell, None)
        yield earlier


def _with(matrix: AccuracyMatrix, late: dict[Cell, TaskScore]) -> AccuracyMatrix:
    """The matrix with further cells."""
    full = replace(matrix)
    for cell, score in late.items():
        full.set(*cell, score.score)
        full.scorers[cell[1]], full.n[cell[1]] = score.scorer, score.n
    return full


def _remark(late: Sequence[Cell]) -> str:
    names = ", ".join(f"{row}: {task}" for row, task in late[:_NAMED]) + (", ..." if len(late) > _NAMED else "")
    if len(late) == 1:
        return f"The last measurement ({names}) is not in the matrix yet; it was read from its score file."
    return f"The last {len(late)} measurements ({names}) are not in the matrix yet; they were read from their score files."


def _about_problems(path: str, results: Results) -> list[Problem]:
    """Stream, method and tasks against ``run.json``; tasks may have been appended since."""
    matrix, info = results.matrix, results.info
    if not info:
        return []
    tasks = [task["name"] for task in info["stream"]["tasks"]]
    found = []
    if matrix.tasks != tasks[: len(matrix.tasks)]:
        what = f"has the tasks {', '.join(matrix.tasks)}, but {RUN} has {', '.join(tasks)}."
        found.append(Problem(path, what, _AGAIN))
    for key, own, theirs in (
        ("stream", matrix.stream, info["stream"]["name"]),
        ("method", matrix.method, info["method"]),
    ):
        if own != theirs:
            found.append(Problem(path, f"has the {key} {own!r}, but {RUN} has {theirs!r}.", _AGAIN))
    return found


def _get(matrix: AccuracyMatrix, row: str, task: str) -> float | None:
    """A cell, None also for rows and tasks that the matrix does not have."""
    try:
        return matrix.get(row, task)
    except DataError:
        return None


def _metrics_of(matrix: AccuracyMatrix) -> dict[str, MetricPart]:
    content = metrics_to_dict(continual_metrics(matrix))
    return dict(MetricsRecord.of(content, METRICS).metrics)


def _same(a: dict[str, MetricPart], b: dict[str, MetricPart]) -> bool:
    """Whether two sets of metrics agree in the numbers of every metric that both know."""
    return all(
        _close(a[key].value, b[key].value) and _all_close(a[key].values, b[key].values) for key in a if key in b
    )


def _all_close(a: list[float | None] | None, b: list[float | None] | None) -> bool:
    a, b = a or [], b or []
    return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
