"""What the report reads of a run: the JSON files of its directory, checked and typed.

`evaluation.results` compares each number with what it was computed from before anything is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.items import TaskScore
from ..evaluation.results import Results, read_results
from ..records.results import MetricPart, ProbePart


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
        extra: What the scorer reports in addition to the score: baselines and the invalid rate, 0-100.
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
        oracle: Task to the cell of its items answered with the true task's part (``cl.eval.oracle``), in the scorer of the
            matrix.
        probes: Probe to what it has measured (``cl.eval.probes``).
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
    oracle: Mapping[str, Cell] = field(default_factory=dict)
    probes: Mapping[str, ProbePart] = field(default_factory=dict)

    @property
    def zero_shot(self) -> Row | None:
        """The row before any training."""
        return next((row for row in self.rows if row.name == "zero_shot"), None)

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of all rows in order, with the zero-shot one, also where only probes were measured."""
        return ("zero_shot", *(row.name for row in self.trained_rows))

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
    def learned(self) -> tuple[str, ...]:
        """The tasks that have training data, in their order; the others are only tested."""
        return tuple(task for task in self.tasks if task not in self.test_only)

    @property
    def _to_train(self) -> set[int]:
        """Columns of the tasks that have training data."""
        return {self.tasks.index(task) for task in self.learned}

    @property
    def stream_trained(self) -> bool:
        """Whether the stream is at its end: every task was trained, and all tests of the last row are measured.

        Of independent models, the test of every model; of a joint model, all tests.
        """
        if self.joint is None and {row.trained for row in self.trained_rows} != self._to_train:
            return False
        end = max(self._to_train, default=-1)
        last = [row for row in self.trained_rows if self.independent or row.trained in (None, end)]
        return not any(self._missing(row) for row in last)

    @property
    def unfinished(self) -> str:
        """What is missing, as text; empty for a run that measured all it needs for its metrics."""
        # A run writes the rows of the tasks that are still to come, too: they are empty.
        measured = [
            i for i, row in enumerate(self.trained_rows, 1) if any(cell.score is not None for cell in row.cells)
        ]
        if not measured and self.info.get("recipe", {}).get("cl", {}).get("eval", {}).get("scope") == "none":
            return "tests nothing (`cl.eval.scope: none`)"
        reached = len(measured) if self.independent else max(measured, default=0)
        if self.joint is None and reached < len(self._to_train):
            return f"measured after {reached} of {len(self._to_train)} tasks"
        missing = sum(self._missing(row) for row in self.trained_rows)
        return f"{missing} cell{'s' if missing > 1 else ''} not measured" if missing else ""

    def _missing(self, row: Row) -> int:
        """How many cells of a row the metrics need and the run has not measured."""
        if row.trained is None:
            needed = row.cells
        else:
            needed = row.cells[row.trained if self.independent else 0 : row.trained + 1]
        return sum(cell.score is None for cell in needed)

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
        RunStateError: A file is missing, damaged, of another format, or was changed after it was written. Lists every
            problem.
    """
    run_dir = Path(run_dir)
    results = read_results(run_dir)
    matrix = results.matrix
    return Run(
        path=run_dir,
        stream=matrix.stream,
        method=matrix.method,
        tasks=tuple(matrix.tasks),
        scorers=dict(matrix.scorers),
        n=dict(matrix.n),
        rows=_rows(results),
        metrics={key: _metric(key, part) for key, part in results.metrics.items()},
        info=results.info,
        remarks=results.remarks,
        independent=matrix.independent,
        test_only=tuple(matrix.test_only),
        oracle={t: _known(s) for t, s in results.oracle.items() if matrix.scorers.get(t) == s.scorer},
        probes=dict(results.probes),
    )


def _rows(results: Results) -> tuple[Row, ...]:
    """The rows with what the score files add to them."""
    matrix = results.matrix
    rows = []
    for name in ["zero_shot", *matrix.row_names()[: len(matrix.scores)]]:
        task = name.removeprefix("after_")
        trained = matrix.tasks.index(task) if name != task and task in matrix.tasks else None
        label = {"zero_shot": "zero-shot", "joint": "all tasks jointly"}.get(name, task)
        cells = tuple(_cell(results, name, column) for column in matrix.tasks)
        if name != "zero_shot" or any(cell.score is not None for cell in cells):
            rows.append(Row(name, label, trained, cells))
    return tuple(rows)


def _cell(results: Results, row: str, task: str) -> Cell:
    """One cell, with interval and baselines where the score file is known."""
    score, n = results.matrix.get(row, task), results.matrix.n.get(task)
    saved = results.scores.get((row, task))
    if score is None or saved is None:
        return Cell(score=score, n=n)
    return _known(saved)


def _known(saved: TaskScore) -> Cell:
    """A cell out of a score file."""
    return Cell(
        score=saved.score,
        interval=saved.interval,
        interval_method=saved.interval_method,
        n=saved.n,
        max_items=saved.max_items,
        cut=saved.cut,
        dropped=saved.dropped,
        extra=saved.extra,
    )


def _metric(key: str, part: MetricPart) -> Metric:
    return Metric(key, part.value, tuple(part.values or ()), part.reason or "", part.divisor, part.formula)


def _dig(content: Any, *keys: str) -> Any:
    """A value deep inside nested mappings, or ``None``."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
