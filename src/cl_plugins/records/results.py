"""Predictions, scores, the matrix and the metrics of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from ..base.errors import DataError, Problem
from .record import Count, Part, Record, Score


ZERO_SHOT = "zero_shot"
JOINT = "joint"
#: Not a row of the matrix: the last row again, answered by a model that is told the task.
ORACLE = "oracle"
#: Folders of a run with the answers to the stream's test sets, and to the probes.
PREDICTIONS, PROBES = "predictions", "probes"


def row_name(task: str) -> str:
    """The name of the row that holds the scores after training `task`."""
    return f"after_{task}"


class PredictionLine(Record):
    """One line of a predictions file: a test item with the model's answer.

    Other programs write such files too: the lines have no format number, and other fields are ignored.
    """

    ERROR: ClassVar[type[DataError]] = DataError
    FIX: ClassVar[str] = "Evaluate again, or restore the file."

    format: int = 1
    id: str
    prompt: str
    prediction: str
    reference: str
    options: list[str] | None = None
    fields: dict[str, Any] = {}
    thought: str = ""
    reference_thought: str = ""
    cut: bool = False
    route: str | None = None

    @classmethod
    def examined(cls, data: object, where: str, previous: str = "") -> Self | list[Problem]:
        """The line, which has no checksum, or everything that is wrong with it."""
        if not isinstance(data, dict):
            return super().examined(data, where, previous)
        return cls.typed({k: v for k, v in data.items() if k != "format"}, where)


class ScoreRecord(Record):
    """``<task>.score.json``: the score of one test set."""

    ERROR: ClassVar[type[DataError]] = DataError
    FIX: ClassVar[str] = "Score the predictions again to rewrite the file."

    scorer: str
    score: Score
    n: Count
    interval: Annotated[list[Score], Field(min_length=2, max_length=2)]
    interval_method: str
    extra: dict[str, Any] = {}
    max_items: Count | None = None
    cut: Count | None = None
    dropped: Count = 0
    items: list[Score] = []


class MatrixRecord(Record):
    """``matrix.json``."""

    ERROR: ClassVar[type[DataError]] = DataError
    FIX: ClassVar[str] = "Correct it, or start the run again, which rewrites the matrix from its score files."

    stream: str
    method: str
    tasks: Annotated[list[str], Field(min_length=1)]
    scorers: dict[str, str]
    n: dict[str, Count]
    zero_shot: list[Score | None]
    scores: list[list[Score | None]]
    rows: list[str] | None = None
    independent: bool = False
    test_only: list[str] = []

    @classmethod
    def label(cls, place: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
        """Rows and cells by their names."""
        names = {ZERO_SHOT: place[1:], "scores": place[2:]}
        if len(place) < 2 or place[0] not in names:
            return super().label(place, data)
        row, cell = ZERO_SHOT, names[str(place[0])]
        tasks = data.get("tasks")
        tasks = tasks if isinstance(tasks, list) else []
        if place[0] == "scores":
            rows = data.get("rows")
            rows = rows if isinstance(rows, list) else [row_name(str(task)) for task in tasks]
            number = int(place[1])
            row = str(rows[number]) if number < len(rows) else f"row {number + 1}"
        if not cell:
            return f"row '{row}'"
        column = int(cell[0])
        return f"cell [{row}][{tasks[column] if column < len(tasks) else column + 1}]"

    def faults(self, where: str) -> list[Problem]:
        """Names that repeat or are unknown, and rows of another length."""
        found: list[Problem] = []

        def add(what: str, fix: str) -> None:
            found.append(Problem(where, what, fix))

        if len(set(self.tasks)) < len(self.tasks):
            add(f"'tasks' lists a task twice: {', '.join(self.tasks)}.", "Task names are unique.")
            return found
        for key, table in (("scorers", self.scorers), ("n", self.n)):
            for task in table:
                if task not in self.tasks:
                    add(f"'{key}' names the unknown task {task!r}.", f"Tasks: {', '.join(self.tasks)}.")
        legal = [row_name(task) for task in self.tasks]
        names = legal if self.rows is None else self.rows
        known = f"Rows are {JOINT!r} alone, or some of {', '.join(legal)}."
        if self.rows is None and len(self.scores) > len(self.tasks):
            add(
                f"{len(self.scores)} rows of scores for {len(self.tasks)} tasks.", "There is one row per trained task."
            )
        elif len(self.scores) > len(names):
            add(f"{len(self.scores)} rows of scores, but {len(names)} names in 'rows'.", "Give every row a name.")
        for row in [] if names == [JOINT] else names:
            if row not in legal:
                add(f"'rows' holds {row!r}.", known)
        if len(set(names)) < len(names):
            add(f"'rows' names a row twice: {', '.join(names)}.", known)
        for name, row_cells in zip((ZERO_SHOT, *names), (self.zero_shot, *self.scores), strict=False):
            if len(row_cells) != len(self.tasks):
                what = f"row '{name}' has {len(row_cells)} cells for {len(self.tasks)} tasks."
                add(what, "Give one score or null per task.")
        return found


class MetricPart(Part):
    """One continual metric."""

    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    values: list[Annotated[float, Field(allow_inf_nan=False)] | None] | None = None
    reason: str | None = None
    divisor: str = ""
    formula: str = ""


class DriftPart(Part):
    """The score of a probe in one row.

    Attributes:
        score: 0-100.
        interval: Its 95 % interval.
        difference: Score minus the zero-shot one; None for the zero-shot row, and where there is none.
        difference_interval: Its 95 % interval over the items; None where the scorer gives no sums over items.
        max_items: The limit ``cl.eval.max_items``.
    """

    score: Score
    interval: Annotated[list[Score], Field(min_length=2, max_length=2)]
    difference: Annotated[float, Field(ge=-100, le=100)] | None = None
    difference_interval: (
        Annotated[list[Annotated[float, Field(ge=-100, le=100)]], Field(min_length=2, max_length=2)] | None
    ) = None
    max_items: Count | None = None


class ProbePart(Part):
    """What a probe has measured: its scorer, its number of items, and its rows in the order in which they were measured."""

    scorer: str
    n: Count
    rows: dict[str, DriftPart]


class MetricsRecord(Record):
    """``metrics.json``."""

    ERROR: ClassVar[type[DataError]] = DataError
    FIX: ClassVar[str] = "Start the run again: it rewrites the metrics from the matrix."

    metrics: dict[str, MetricPart]
    probes: dict[str, ProbePart] = {}
