"""Test items with their predictions, and the score of one task: what scorers take and what they give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem
from ..base.files import write_bytes
from ..records.record import dump, few, parse_json, read_file
from ..records.results import PredictionLine, ScoreRecord


#: Names that `Item.fields` may hold: the picture's file name, OPEN or CLOSED, several right answers, the category or
#: dimension, the kind of task, the box and the size (width, height) of the picture it is drawn in, the original id.
FIELDS = ("image", "answer_type", "answers", "type", "task", "answer_bbox", "size", "question_id")


@dataclass(frozen=True)
class Item:
    """One test item with the model's answer.

    Attributes:
        id: Unique within the test set.
        prompt: The text of the user turn.
        prediction: What the model generated, without special tokens.
        reference: The answer that counts as right.
        options: The texts of the options of a multiple-choice item in the order A, B, C, ...; None when unknown.
        fields: What else is known of the item and some scorers of other libraries need, under the names of
            `FIELDS`; plain JSON values.
        thought: The reasoning that the model wrote in front of its answer; it is kept and not scored.
        reference_thought: The reasoning in front of the right answer.
        cut: Whether ``max_new_tokens`` ended the answer.
        route: The task whose part of the model has answered, where the model has chosen it; else None.
    """

    id: str
    prompt: str
    prediction: str
    reference: str
    options: tuple[str, ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    thought: str = ""
    reference_thought: str = ""
    cut: bool = False
    route: str | None = None


@dataclass(frozen=True)
class TaskScore:
    """The score of one test set.

    Attributes:
        scorer: Name and version of the scorer, such as ``choice_accuracy@2``.
        score: The score, 0-100, not rounded.
        n: Number of items.
        interval: 95 % confidence interval (low, high), 0-100.
        interval_method: ``wilson`` or ``bootstrap``.
        items: Score of each item, 0-100, in test-set order.
        extra: What else the scorer reports (baselines, invalid rate, signature), percentages 0-100.
        max_items: The limit ``cl.eval.max_items`` the test set was cut to; None when it was used in full.
        cut: Number of answers that ``max_new_tokens`` ended; None where it is not known.
        dropped: Number of items that were left out because their prompt is longer than ``cutoff_len``
            (``cl.eval.too_long: drop``).
    """

    scorer: str
    score: float
    n: int
    interval: tuple[float, float]
    interval_method: str
    items: tuple[float, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    max_items: int | None = None
    cut: int | None = None
    dropped: int = 0

    def to_dict(self, *, per_item: bool = False) -> dict[str, Any]:
        """The score as plain JSON types.

        Args:
            per_item: Also give the score of each item under ``items``.
        """
        data: dict[str, Any] = {
            "scorer": self.scorer,
            "score": self.score,
            "n": self.n,
            "interval": list(self.interval),
            "interval_method": self.interval_method,
            "extra": dict(self.extra),
            "max_items": self.max_items,
            "cut": self.cut,
            "dropped": self.dropped,
        }
        if per_item:
            data["items"] = list(self.items)
        return ScoreRecord.content(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "score") -> TaskScore:
        """Read what `to_dict` gave.

        Args:
            data: The mapping.
            where: File name for error messages.

        Raises:
            DataError: A field is missing or has the wrong type, or the format is newer than this version knows.
        """
        record = ScoreRecord.of(data, where)
        low, high = record.interval
        return cls(
            scorer=record.scorer,
            score=float(record.score),
            n=record.n,
            interval=(float(low), float(high)),
            interval_method=record.interval_method,
            items=tuple(float(value) for value in record.items),
            extra=record.extra,
            max_items=record.max_items,
            cut=record.cut,
            dropped=record.dropped,
        )

    @classmethod
    def read(cls, path: Path) -> TaskScore:
        """Read ``<task>.score.json``.

        Raises:
            DataError: The file is missing, damaged, or was changed after it was written.
        """
        return cls.from_dict(
            parse_json(read_file(path, ScoreRecord.FIX, DataError), str(path), ScoreRecord.FIX, DataError),
            where=str(path),
        )

    def write(self, path: Path, *, per_item: bool = False) -> None:
        """Write ``<task>.score.json``; ``per_item`` as in `to_dict`."""
        write_bytes(path, (dump(self.to_dict(per_item=per_item), 2) + "\n").encode())


def is_percentage(value: object) -> bool:
    """Whether a value read from JSON is a finite number from 0 to 100."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 100
    )


def require_items(items: Sequence[Item]) -> None:
    """Refuse what no scorer can score.

    Raises:
        DataError: There are no items, or two items have the same id.
    """
    if not items:
        raise DataError(Problem("test set", "there are no items to score.", "Check the test data set and max_items."))
    seen: set[str] = set()
    problems = []
    for item in items:
        if item.id in seen:
            problems.append(Problem(f"item {item.id!r}", "this id occurs more than once.", "Make the ids unique."))
        seen.add(item.id)
    if problems:
        raise DataError(few(problems))


def read_predictions(path: str | Path) -> list[Item]:
    """Read a predictions file: lines with ``id``, ``prompt``, ``prediction`` and ``reference``.

    A line may also have ``options``, ``fields``, ``thought``, ``reference_thought``, ``cut`` and ``route`` (see `Item`). Other keys (``score`` among them) are ignored, and so are empty lines.

    Raises:
        DataError: The file is missing or cannot be read, a line is not such a record, or an id occurs twice; each
            problem names the file and the line number.
    """
    path = Path(path)
    raw = read_file(path, "Check the path.", DataError, links=True)
    items: list[Item] = []
    line_of: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        item = _read_line(line, where, problems)
        if item is None:
            continue
        if item.id in line_of:
            what = f"the id {item.id!r} occurs already in line {line_of[item.id]}."
            problems.append(Problem(where, what, "Every item needs its own id."))
        line_of.setdefault(item.id, number)
        items.append(item)
    if problems:
        raise DataError(few(problems))
    return items


def _read_line(line: bytes, where: str, problems: list[Problem]) -> Item | None:
    """One record, or None after adding to `problems`."""
    try:
        data = parse_json(line, where, PredictionLine.FIX, DataError)
    except DataError as error:
        problems += error.problems
        return None
    found = PredictionLine.problems(data, where)
    if found:
        problems += found
        return None
    return Item(
        data["id"],
        data["prompt"],
        data["prediction"],
        data["reference"],
        None if data.get("options") is None else tuple(data["options"]),
        data.get("fields", {}),
        data.get("thought", ""),
        data.get("reference_thought", ""),
        data.get("cut", False),
        data.get("route"),
    )


def predictions_to_jsonl(items: Iterable[Item], score: TaskScore) -> str:
    """The text of a predictions file, one line per item, in the order given; `read_predictions` reads it back.

    Args:
        items: The items that were scored.
        score: Their score; ``score.items`` goes into the lines.

    Raises:
        DataError: The score belongs to another number of items.
    """
    items = list(items)
    if len(items) != len(score.items):
        what = f"{len(items)} items, but item scores for {len(score.items)}."
        raise DataError(Problem("predictions", what, "Pass the items that were scored, and a score with its items."))
    lines = []
    for item, value in zip(items, score.items, strict=True):
        record: dict[str, Any] = {
            "id": item.id,
            "prompt": item.prompt,
            "prediction": item.prediction,
            "reference": item.reference,
            "score": value,
        }
        if item.options is not None:
            record["options"] = list(item.options)
        if item.fields:
            record["fields"] = dict(item.fields)
        more = {"thought": item.thought, "reference_thought": item.reference_thought, "cut": item.cut}
        more["route"] = item.route
        record |= {key: value for key, value in more.items() if value}
        lines.append(dump(record) + "\n")
    return "".join(lines)
