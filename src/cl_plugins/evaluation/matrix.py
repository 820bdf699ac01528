"""The accuracy matrix: the score on each task after each step of a stream, as stored in ``matrix.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem
from ..records.record import dump, parse_json, read_file
from ..records.results import JOINT as JOINT
from ..records.results import ZERO_SHOT, MatrixRecord, row_name
from .items import is_percentage


Row = list[float | None]


@dataclass
class AccuracyMatrix:
    """Scores 0-100, not rounded; None where a cell was not evaluated. Checked when it is made.

    Attributes:
        stream: Name of the stream.
        method: Name of the method.
        tasks: Names of the T tasks in the order of the stream.
        scorers: ``name@version`` of the scorer of each task.
        n: Number of test items of each task.
        zero_shot: T scores before any training.
        scores: One row of T scores per trained task.
        rows: Names of the rows in `scores`; None when they are the first tasks of the stream in order. ``["joint"]`` for
            a model trained on all tasks at once, some ``after_<task>`` for a run of single tasks.
        independent: Whether every row is another model, trained on its own task alone.
        test_only: Tasks without training data: columns of the matrix, and not part of the continual metrics.
    """

    stream: str
    method: str
    tasks: list[str]
    scorers: dict[str, str] = field(default_factory=dict)
    n: dict[str, int] = field(default_factory=dict)
    zero_shot: Row = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    rows: list[str] | None = None
    independent: bool = False
    test_only: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.tasks, list | tuple) and not self.zero_shot:
            self.zero_shot = [None] * len(self.tasks)
        self.check()
        # Copies, so that writing a cell does not change what the caller passed.
        self.tasks, self.scorers, self.n = list(self.tasks), dict(self.scorers), dict(self.n)
        self.zero_shot = _numbers(self.zero_shot)
        self.scores = [_numbers(row) for row in self.scores]
        self.rows = None if self.rows is None else list(self.rows)

    def check(self) -> None:
        """Check the whole matrix.

        Raises:
            DataError: Everything that is wrong with it.
        """
        data = {"format": 1, **{f.name: getattr(self, f.name) for f in fields(self)}}
        if found := MatrixRecord.problems({key: _plain(value) for key, value in data.items()}, "accuracy matrix"):
            raise DataError(found)

    def row_names(self) -> list[str]:
        """The names of the rows in `scores`, in order."""
        if self.rows is not None:
            return list(self.rows)
        return [row_name(task) for task in self.tasks[: len(self.scores)]]

    def get(self, row: str, task: str) -> float | None:
        """The score in a cell; None also for a row that does not exist (yet).

        Args:
            row: ``zero_shot``, ``after_<task>`` or ``joint``.
            task: Name of a task.

        Raises:
            DataError: The matrix can have no such row or task.
        """
        column, index = self._column(task), self._index(row)
        if index is None:
            return self.zero_shot[column]
        return self.scores[index][column] if index < len(self.scores) else None

    def set(self, row: str, task: str, score: float | None) -> None:
        """Write the score of a cell; rows up to the one named are added when `rows` is None.

        Args:
            row: ``zero_shot``, ``after_<task>`` or ``joint``.
            task: Name of a task.
            score: 0-100, or None to clear the cell.

        Raises:
            DataError: The matrix can have no such row or task, or the score is no number from 0 to 100.
        """
        column, index = self._column(task), self._index(row)
        if score is not None and not is_percentage(score):
            what = f"{score!r} is not a score."
            raise DataError(Problem(_cell(row, task), what, "Scores are finite numbers from 0 to 100."))
        if index is not None:
            missing = index + 1 - len(self.scores)
            self.scores.extend([None] * len(self.tasks) for _ in range(missing))
        cells = self.zero_shot if index is None else self.scores[index]
        cells[column] = None if score is None else float(score)

    def after_each_task(self) -> list[Row]:
        """R as T rows of T cells: row i holds the scores after training task i, all None where it was not trained.

        The row ``joint`` has no place in it.
        """
        by_name = dict(zip(self.row_names(), self.scores, strict=True))
        empty: Row = [None] * len(self.tasks)
        return [list(by_name.get(row_name(task), empty)) for task in self.tasks]

    def of_trained(self) -> AccuracyMatrix:
        """The matrix without the columns of tasks that are only tested."""
        columns = [index for index, task in enumerate(self.tasks) if task not in self.test_only]
        tasks = [self.tasks[index] for index in columns]
        names = self.row_names()
        return AccuracyMatrix(
            self.stream,
            self.method,
            tasks,
            {task: self.scorers[task] for task in tasks if task in self.scorers},
            {task: self.n[task] for task in tasks if task in self.n},
            [self.zero_shot[index] for index in columns],
            [[row[index] for index in columns] for row in self.scores],
            None if names == [row_name(task) for task in tasks] else names,
            self.independent,
        )

    def _column(self, task: str) -> int:
        if task not in self.tasks:
            raise DataError(
                Problem("accuracy matrix", f"there is no task {task!r}.", f"Tasks: {', '.join(self.tasks)}.")
            )
        return self.tasks.index(task)

    def _index(self, row: str) -> int | None:
        """The index of a row, present or future, in `scores`; None for the zero-shot row."""
        if row == ZERO_SHOT:
            return None
        start = row_name("")
        if self.rows is None and row.startswith(start) and row.removeprefix(start) in self.tasks:
            return self.tasks.index(row.removeprefix(start))
        names = self.rows if self.rows is not None else [row_name(task) for task in self.tasks]
        if row not in names:
            known = ", ".join([ZERO_SHOT, *names])
            raise DataError(Problem("accuracy matrix", f"there is no row {row!r}.", f"Rows: {known}."))
        return names.index(row)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``matrix.json`` as plain JSON types; ``rows`` and ``independent`` only where they say something."""
        data: dict[str, Any] = {
            "stream": self.stream,
            "method": self.method,
            "tasks": list(self.tasks),
            "scorers": dict(self.scorers),
            "n": dict(self.n),
            "zero_shot": list(self.zero_shot),
            "scores": [list(row) for row in self.scores],
        }
        if self.rows is not None:
            data["rows"] = list(self.rows)
        if self.independent:
            data["independent"] = True
        if self.test_only:
            data["test_only"] = list(self.test_only)
        return MatrixRecord.content(data)

    def to_json(self) -> str:
        """The text of ``matrix.json``.

        Raises:
            DataError: The matrix was edited manually into one that cannot be read back.
        """
        self.check()
        return dump(self.to_dict(), 1) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "matrix.json") -> AccuracyMatrix:
        """Read what `to_dict` gave; unknown keys are ignored.

        Args:
            data: The mapping.
            where: File name for error messages.

        Raises:
            DataError: Everything that is wrong with it.
        """
        record = MatrixRecord.of(data, where)
        return cls(**{f.name: getattr(record, f.name) for f in fields(cls)})

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "matrix.json") -> AccuracyMatrix:
        """Read the text of ``matrix.json``.

        Args:
            text: The text.
            where: File name for error messages.

        Raises:
            DataError: It is not JSON, or everything that is wrong with the matrix.
        """
        return cls.from_dict(parse_json(text, where, MatrixRecord.FIX, DataError), where=where)

    @classmethod
    def read(cls, path: Path) -> AccuracyMatrix:
        """Read ``matrix.json``.

        Raises:
            DataError: It is missing, damaged, or was changed after it was written.
        """
        return cls.from_json(read_file(path, MatrixRecord.FIX, DataError), where=str(path))


def _numbers(row: Iterable[float | None]) -> Row:
    return [None if value is None else float(value) for value in row]


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if value is None or type(value) in (float, int, str, bool):  # nearly all of a large matrix
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _cell(row: str, task: str) -> str:
    return f"cell [{row}][{task}]"
