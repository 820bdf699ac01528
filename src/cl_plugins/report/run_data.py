"""What the report reads of a run: the JSON files of its directory, checked and typed.

The reader knows file formats only; it recomputes no score and no metric, so a report can never disagree with the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError


METRIC_LABELS = {
    "last": "Last",
    "average": "Average",
    "a_k": "A_k",
    "mft": "MFT",
    "mfn": "MFN",
    "bwt": "BWT",
    "mfn_minus_mft": "MFN − MFT",
    "forgetting": "Forgetting",
    "fwt": "FWT",
}
METRIC_MEANINGS = {
    "last": "mean over all tasks after the last one",
    "average": "mean of A_k over the stream (MAA)",
    "a_k": "mean over the tasks seen so far, after task k",
    "mft": "mean score of each task right after its own training",
    "mfn": "mean over all tasks after the last one",
    "bwt": "backward transfer; below zero means forgetting",
    "mfn_minus_mft": "backward transfer divided by T",
    "forgetting": "drop from the best earlier score; lower is better",
    "fwt": "forward transfer against zero-shot",
}


@dataclass(frozen=True)
class Cell:
    """One score of the matrix.

    Attributes:
        score: 0-100, unrounded; ``None`` where nothing was measured.
        interval: 95 % interval, 0-100, or ``None`` where the run left none.
        interval_method: ``wilson`` or ``bootstrap``.
        n: Number of test items.
        max_items: The limit that ``cl.eval.max_items`` set, or ``None``.
        cut: Number of answers that ``max_new_tokens`` ended; ``None`` where it is not known.
        dropped: Number of items left out because their prompt exceeds ``cutoff_len``.
        extra: What the scorer says beside the score: baselines and the invalid rate, 0-100.
    """

    score: float | None = None
    interval: tuple[float, float] | None = None
    interval_method: str = ""
    n: int | None = None
    max_items: int | None = None
    cut: int | None = None
    dropped: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One row of the matrix.

    Attributes:
        name: ``zero_shot``, ``after_<task>`` or ``joint``.
        label: The name as people read it.
        trained: Index of the task that had just been trained; ``None`` for zero-shot and joint rows.
        cells: One per task, in the order of the stream.
    """

    name: str
    label: str
    trained: int | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Metric:
    """One continual metric as ``metrics.json`` states it.

    Attributes:
        key: Its key in the file.
        value: The number, or ``None`` where it is not defined.
        values: For ``a_k``: one number (or ``None``) per trained task.
        reason: Why there is no value.
        divisor: What the sum was divided by, as text.
        formula: The formula, as text.
    """

    key: str
    value: float | None = None
    values: tuple[float | None, ...] = ()
    reason: str = ""
    divisor: str = ""
    formula: str = ""

    @property
    def label(self) -> str:
        """The name as people read it."""
        return METRIC_LABELS.get(self.key, self.key)


@dataclass(frozen=True)
class Run:
    """A run directory, read.

    Attributes:
        path: The directory.
        stream: Name of the stream.
        method: Name of the method.
        tasks: Names in the order of training.
        scorers: Task to ``name@version``.
        n: Task to the number of test items.
        rows: Zero-shot first where measured, then one per trained task, or the joint row.
        metrics: Key to metric; empty where the run has not written them yet.
        info: ``run.json``, empty where there is none.
        remarks: What does not fit together, for the reader of the report.
        independent: Whether every row is another model, trained on its own task alone.
        test_only: Tasks that are only tested.
    """

    path: Path
    stream: str
    method: str
    tasks: tuple[str, ...]
    scorers: Mapping[str, str]
    n: Mapping[str, int]
    rows: tuple[Row, ...]
    metrics: Mapping[str, Metric]
    info: Mapping[str, Any]
    remarks: tuple[str, ...] = ()
    independent: bool = False
    test_only: tuple[str, ...] = ()

    @property
    def zero_shot(self) -> Row | None:
        """The row before any training."""
        return next((row for row in self.rows if row.name == "zero_shot"), None)

    @property
    def trained_rows(self) -> tuple[Row, ...]:
        """Every row but the zero-shot one."""
        return tuple(row for row in self.rows if row.name != "zero_shot")

    @property
    def joint(self) -> Row | None:
        """The row of a model trained on all tasks at once."""
        return next((row for row in self.rows if row.name == "joint"), None)

    @property
    def seed(self) -> int | None:
        """The seed of the recipe."""
        seed = self.info.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the run itself wants every reader to know (``notes`` in ``run.json``)."""
        notes = self.info.get("notes") or []
        return (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes)

    @property
    def limits(self) -> dict[str, int]:
        """Task to the limit of ``cl.eval.max_items``, for the tasks whose test was limited."""
        asked = _dig(self.info, "recipe", "cl", "eval", "max_items")
        found = dict.fromkeys(self.tasks, asked) if isinstance(asked, int) and not isinstance(asked, bool) else {}
        for row in self.rows:
            for task, cell in zip(self.tasks, row.cells, strict=True):
                if cell.max_items is not None:
                    found[task] = cell.max_items
        # A test set that is smaller than the limit was used in full.
        return {task: limit for task, limit in found.items() if self.n.get(task, limit) >= limit}

    @property
    def left_out(self) -> dict[str, int]:
        """Task to the number of test items that ``cl.eval.too_long: drop`` left out, where it left out any."""
        found: dict[str, int] = {}
        for row in self.rows:
            found |= {task: cell.dropped for task, cell in zip(self.tasks, row.cells, strict=True) if cell.dropped}
        return found

    @property
    def final(self) -> tuple[Cell, ...]:
        """The last cell of each task when the whole stream was trained; empty cells otherwise."""
        if self.joint is not None:
            return self.joint.cells
        by_task = {row.trained: row for row in self.trained_rows}
        if self.independent:
            return tuple(by_task[j].cells[j] if j in by_task else Cell() for j in range(len(self.tasks)))
        last = by_task.get(max(self._to_train, default=-1))
        return last.cells if last is not None else tuple(Cell() for _ in self.tasks)

    @property
    def _to_train(self) -> set[int]:
        """Columns of the tasks that have training data."""
        return {index for index, task in enumerate(self.tasks) if task not in self.test_only}

    @property
    def stream_trained(self) -> bool:
        """Whether every task of the stream has been trained."""
        return self.joint is not None or {row.trained for row in self.trained_rows} == self._to_train

    @property
    def unfinished(self) -> str:
        """What is missing, in words; empty for a run that measured all it needs for its metrics."""
        if not self.stream_trained:
            return f"{len(self.trained_rows)} of {len(self._to_train)} tasks trained"
        missing = 0
        for row in self.trained_rows:
            if row.trained is None:
                needed = row.cells
            elif self.independent:
                needed = row.cells[row.trained : row.trained + 1]
            else:
                needed = row.cells[: row.trained + 1]
            missing += sum(cell.score is None for cell in needed)
        return f"{missing} cell{'s' if missing > 1 else ''} not measured" if missing else ""

    def seen_means(self) -> tuple[float | None, ...]:
        """``A_k`` for each trained row, as ``metrics.json`` has it; empty where it does not fit the rows."""
        values = self.metrics["a_k"].values if "a_k" in self.metrics else ()
        rows = self.trained_rows
        if len(values) == len(rows):
            return values
        if len(values) == len(self.tasks):
            return tuple(values[row.trained] if row.trained is not None else None for row in rows)
        return ()


def read_run(run_dir: Path) -> Run:
    """Read the files of one run directory.

    Args:
        run_dir: A directory with ``matrix.json``; ``metrics.json``, ``run.json`` and
            ``predictions/<row>/<task>.score.json`` are read where they exist.

    Returns:
        The run.

    Raises:
        RunStateError: A file is missing, damaged, of another format, or of the wrong shape. Lists every problem.
    """
    run_dir = Path(run_dir)
    problems: list[Problem] = []
    matrix = _read_json(run_dir / "matrix.json", problems, required=True)
    metrics = _read_json(run_dir / "metrics.json", problems)
    info = _read_json(run_dir / "run.json", problems)
    cells = {
        (path.parent.name, path.name.removesuffix(".score.json")): _read_json(path, problems)
        for path in sorted((run_dir / "predictions").glob("*/*.score.json"))
    }
    remarks: list[str] = []
    tasks = _tasks(matrix, run_dir / "matrix.json", problems) if not problems else ()
    rows = _rows(matrix, tasks, cells, run_dir / "matrix.json", problems, remarks) if tasks else ()
    read_metrics = _metrics(metrics, run_dir / "metrics.json", problems)
    if problems:
        raise RunStateError(problems)
    return Run(
        path=run_dir,
        stream=str(matrix.get("stream") or "stream"),
        method=str(matrix.get("method") or "method"),
        tasks=tasks,
        scorers={str(task): str(scorer) for task, scorer in (matrix.get("scorers") or {}).items()},
        n={str(task): int(n) for task, n in (matrix.get("n") or {}).items() if _is_number(n)},
        rows=rows,
        metrics=read_metrics,
        info=info,
        remarks=tuple(remarks),
        independent=matrix.get("independent") is True,
        test_only=tuple(str(task) for task in matrix.get("test_only") or ()),
    )


def _read_json(path: Path, problems: list[Problem], required: bool = False) -> dict[str, Any]:
    """Read one JSON object; an optional file that is not there is an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            fix = "Give the output_dir of a run that has evaluated at least one task."
            problems.append(Problem(str(path), "there is no such file.", fix))
        return {}
    except (OSError, ValueError) as error:
        problems.append(Problem(str(path), f"cannot be read ({error}).", "Run the recipe again to write it anew."))
        return {}
    if not isinstance(content, dict) or content.get("format", 1) != 1:
        problems.append(Problem(str(path), "is not a JSON object of format 1.", "Use the version that wrote it."))
        return {}
    return content


def _tasks(matrix: Mapping[str, Any], path: Path, problems: list[Problem]) -> tuple[str, ...]:
    """The task names, checked."""
    tasks = matrix.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) and task for task in tasks):
        problems.append(Problem(f"{path}: tasks", "is not a list of names.", "Run the recipe again."))
        return ()
    if len(set(tasks)) != len(tasks):
        problems.append(Problem(f"{path}: tasks", "names a task twice.", "Every task needs a name of its own."))
        return ()
    return tuple(tasks)


def _rows(
    matrix: Mapping[str, Any],
    tasks: tuple[str, ...],
    cells: Mapping[tuple[str, str], Mapping[str, Any]],
    path: Path,
    problems: list[Problem],
    remarks: list[str],
) -> tuple[Row, ...]:
    """The rows with what the score files add to them."""
    scores = matrix.get("scores") or []
    names = matrix.get("rows") or [f"after_{task}" for task in tasks[: len(scores)]]
    if not isinstance(scores, list) or len(names) != len(scores):
        problems.append(Problem(f"{path}: scores", f"has {len(scores)} rows for {len(names)} names.", ""))
        return ()
    todo: list[tuple[str, str, int | None, Any]] = []
    zero_shot = matrix.get("zero_shot")
    if zero_shot is not None and any(value is not None for value in zero_shot):
        todo.append(("zero_shot", "zero-shot", None, zero_shot))
    for raw, row in zip(names, scores, strict=True):
        name = str(raw)
        task = name.removeprefix("after_") if name.removeprefix("after_") in tasks else name
        if task in tasks:
            todo.append((f"after_{task}", task, tasks.index(task), row))
        elif name == "joint":
            todo.append(("joint", "all tasks jointly", None, row))
        else:
            problems.append(Problem(f"{path}: rows", f"{name!r} is neither a task nor 'joint'.", ""))
    found = []
    for name, label, trained, values in todo:
        if not isinstance(values, list) or len(values) != len(tasks):
            problems.append(Problem(f"{path}: {name}", f"needs {len(tasks)} numbers or nulls.", ""))
            continue
        row_cells = []
        for task, value in zip(tasks, values, strict=True):
            if value is not None and not (_is_number(value) and -1e-6 <= value <= 100 + 1e-6):
                problems.append(Problem(f"{path}: {name}, {task}", f"{value!r} is not a score from 0 to 100.", ""))
            row_cells.append(_cell(name, task, value, matrix, cells.get((name, task), {}), remarks))
        found.append(Row(name, label, trained, tuple(row_cells)))
    return tuple(found)


def _cell(
    row: str, task: str, score: Any, matrix: Mapping[str, Any], saved: Mapping[str, Any], remarks: list[str]
) -> Cell:
    """One cell; what a score file says is used only if it speaks about the same score."""
    n = (matrix.get("n") or {}).get(task)
    if score is None or not saved or not _is_number(score):
        return Cell(score=score, n=n)
    theirs = saved.get("score")
    scorer = (matrix.get("scorers") or {}).get(task)
    if not _is_number(theirs) or abs(theirs - score) > 1e-6 or saved.get("scorer", scorer) != scorer:
        remarks.append(
            f"predictions/{row}/{task}.score.json ({saved.get('scorer')}: {theirs}) is not what matrix.json holds "
            f"({scorer}: {score}); its interval and baselines are left out."
        )
        return Cell(score=score, n=n)
    interval = saved.get("interval")
    good = isinstance(interval, list) and len(interval) == 2 and all(_is_number(end) for end in interval)
    limit, cut, dropped = saved.get("max_items"), saved.get("cut"), saved.get("dropped")
    return Cell(
        score=score,
        interval=(float(interval[0]), float(interval[1])) if good and isinstance(interval, list) else None,
        interval_method=str(saved.get("interval_method") or ""),
        n=saved.get("n", n),
        max_items=limit if isinstance(limit, int) else None,
        cut=cut if isinstance(cut, int) else None,
        dropped=dropped if isinstance(dropped, int) else 0,
        extra=saved.get("extra") or {},
    )


def _metrics(content: Mapping[str, Any], path: Path, problems: list[Problem]) -> dict[str, Metric]:
    """The metrics of ``metrics.json``."""
    found: dict[str, Metric] = {}
    for key, entry in (content.get("metrics") or {}).items():
        if not isinstance(entry, dict):
            problems.append(Problem(f"{path}: {key}", "is not an object.", "Run the recipe again."))
            continue
        found[str(key)] = Metric(
            key=str(key),
            value=_number(entry.get("value")),
            values=tuple(_number(v) for v in entry.get("values") or []),
            reason=str(entry.get("reason") or ""),
            divisor=str(entry.get("divisor") or ""),
            formula=str(entry.get("formula") or ""),
        )
    return found


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number (JSON booleans are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> float | None:
    """A finite number, or ``None``."""
    return float(value) if _is_number(value) else None


def _dig(content: Any, *keys: str) -> Any:
    """A value deep inside nested mappings, or ``None``."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
