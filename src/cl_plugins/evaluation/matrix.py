"""The score matrix: the score on each task after each step of a stream, as stored in ``matrix.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ..base.errors import DataError, Problem
from .items import is_count, is_percentage


FORMAT = 1
ZERO_SHOT = "zero_shot"
JOINT = "joint"
Row = list[float | None]

_REQUIRED = ("stream", "method", "tasks", "scorers", "n", "zero_shot", "scores")


def row_name(task: str) -> str:
    """The name of the row that holds the scores after training `task`."""
    return f"after_{task}"


@dataclass
class ScoreMatrix:
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
        test_only: Tasks without training data: columns of the matrix, and no part of the continual metrics.
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
        _check(self, "score matrix")

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
            what = f"{score!r} is no score."
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

    def of_trained(self) -> ScoreMatrix:
        """The matrix without the columns of tasks that are only tested."""
        columns = [index for index, task in enumerate(self.tasks) if task not in self.test_only]
        tasks = [self.tasks[index] for index in columns]
        names = self.row_names()
        return ScoreMatrix(
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
            raise DataError(Problem("score matrix", f"there is no task {task!r}.", f"Tasks: {', '.join(self.tasks)}."))
        return self.tasks.index(task)

    def _index(self, row: str) -> int | None:
        """Where a row stands, or is to stand, in `scores`; None for the zero-shot row."""
        if row == ZERO_SHOT:
            return None
        names = self.rows if self.rows is not None else [row_name(task) for task in self.tasks]
        if row not in names:
            known = ", ".join([ZERO_SHOT, *names])
            raise DataError(Problem("score matrix", f"there is no row {row!r}.", f"Rows: {known}."))
        return names.index(row)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``matrix.json`` as plain JSON types; ``rows`` and ``independent`` only where they say something."""
        data: dict[str, Any] = {
            "format": FORMAT,
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
        return data

    def to_json(self) -> str:
        """The text of ``matrix.json``.

        Raises:
            DataError: The matrix was changed by hand into one that cannot be read back.
        """
        self.check()
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "matrix.json") -> ScoreMatrix:
        """Read what `to_dict` gave; unknown keys are ignored.

        Args:
            data: The mapping.
            where: File name for error messages.

        Raises:
            DataError: Everything that is wrong with it.
        """
        fix = "Write the matrix again from the run's predictions."
        if data.get("format") != FORMAT:
            what = f"format is {data.get('format')!r}, this version reads {FORMAT}."
            raise DataError(Problem(where, what, fix))
        missing = [key for key in _REQUIRED if key not in data]
        if missing:
            raise DataError([Problem(where, f"the key {key!r} is missing.", fix) for key in missing])
        fields = {key: data[key] for key in _REQUIRED} | {"rows": data.get("rows")}
        fields["independent"] = data.get("independent", False)
        fields["test_only"] = data.get("test_only", [])
        _check(SimpleNamespace(**fields), where)
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "matrix.json") -> ScoreMatrix:
        """Read the text of ``matrix.json``.

        Args:
            text: The text.
            where: File name for error messages.

        Raises:
            DataError: It is not JSON, or everything that is wrong with the matrix.
        """
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(Problem(where, f"is not JSON ({error}).", "Restore the file.")) from error
        if not isinstance(data, dict):
            raise DataError(Problem(where, f"is {type(data).__name__}, not a JSON object.", "Restore the file."))
        return cls.from_dict(data, where=where)


def _numbers(row: Iterable[float | None]) -> Row:
    return [None if value is None else float(value) for value in row]


def _check(matrix: Any, where: str) -> None:
    """Refuse an object with the attributes of a matrix if anything is wrong with them."""
    problems = _Checker(matrix, where).run()
    if problems:
        raise DataError(problems)


def _cell(row: str, task: str) -> str:
    return f"cell [{row}][{task}]"


class _Checker:
    """Collects everything that is wrong with a matrix, whose fields may hold anything."""

    def __init__(self, matrix: Any, where: str) -> None:
        self.matrix = matrix
        self.where = where
        self.problems: list[Problem] = []

    def add(self, what: str, fix: str) -> None:
        self.problems.append(Problem(self.where, what, fix))

    def run(self) -> list[Problem]:
        matrix = self.matrix
        for key in ("stream", "method"):
            value = getattr(matrix, key)
            if not isinstance(value, str):
                self.add(f"{key!r} is {value!r}.", "It must be a name.")
        if not isinstance(matrix.independent, bool):
            self.add(f"'independent' is {matrix.independent!r}.", "It must be true or false.")
        only = matrix.test_only
        if not isinstance(only, list) or not all(isinstance(name, str) for name in only):
            self.add(f"'test_only' is {only!r}.", "It must be a list of names of tasks.")
        tasks: object = matrix.tasks
        if not isinstance(tasks, list | tuple) or not tasks or not all(isinstance(task, str) for task in tasks):
            self.add(f"'tasks' is {tasks!r}.", "It must be a list of at least one task name.")
            return self.problems
        if len(set(tasks)) < len(tasks):
            self.add(f"'tasks' names a task twice: {', '.join(tasks)}.", "Task names are unique.")
        self.by_task("scorers", "a scorer's name@version", lambda value: isinstance(value, str))
        self.by_task("n", "a number of items", is_count)
        self.check_rows(len(tasks))
        return self.problems

    def by_task(self, key: str, kind: str, ok: Any) -> None:
        """A mapping from task names to values."""
        value = getattr(self.matrix, key)
        if not isinstance(value, Mapping):
            self.add(f"{key!r} is {value!r}.", f"It must map task names to {kind}.")
            return
        for task, entry in value.items():
            if task not in self.matrix.tasks:
                self.add(f"{key!r} names the unknown task {task!r}.", f"Tasks: {', '.join(self.matrix.tasks)}.")
            elif not ok(entry):
                self.add(f"{key!r} of task {task!r} is {entry!r}.", f"It must be {kind}.")

    def check_rows(self, width: int) -> None:
        """The shape and the numbers."""
        matrix = self.matrix
        scores: object = matrix.scores
        if not isinstance(scores, list | tuple):
            self.add(f"'scores' is {scores!r}.", "It must be a list of rows.")
            return
        names = self.names(len(scores), width)
        self.check_row("zero_shot", matrix.zero_shot, width)
        for index, row in enumerate(scores):
            self.check_row(names[index] if index < len(names) else f"row {index + 1}", row, width)

    def names(self, height: int, width: int) -> list[str]:
        """The names of the rows, as far as they can be told."""
        tasks, rows = self.matrix.tasks, self.matrix.rows
        legal = [row_name(task) for task in tasks]
        if rows is None:
            if height > width:
                self.add(f"{height} rows of scores for {width} tasks.", "There is one row per trained task.")
            return legal
        known = f"Rows are {JOINT!r} alone, or some of {', '.join(legal)}."
        if not isinstance(rows, list | tuple) or not all(isinstance(row, str) for row in rows):
            self.add(f"'rows' is {rows!r}.", known)
            return []
        if list(rows) != [JOINT]:
            for row in rows:
                if row not in legal:
                    self.add(f"'rows' holds {row!r}.", known)
        if len(set(rows)) < len(rows):
            self.add(f"'rows' names a row twice: {', '.join(rows)}.", known)
        if height > len(rows):
            self.add(f"{height} rows of scores, but {len(rows)} names in 'rows'.", "Give every row a name.")
        return list(rows)

    def check_row(self, name: str, row: object, width: int) -> None:
        """One row of cells."""
        if not isinstance(row, list | tuple):
            self.add(f"row {name!r} is {row!r}.", "It must be a list with one score or null per task.")
            return
        if len(row) != width:
            self.add(f"row {name!r} has {len(row)} cells for {width} tasks.", "Give one score or null per task.")
            return
        for task, value in zip(self.matrix.tasks, row, strict=True):
            if value is not None and not is_percentage(value):
                fix = "A score is a finite number from 0 to 100, or null."
                self.problems.append(Problem(f"{self.where}, {_cell(name, task)}", f"{value!r} is no score.", fix))
