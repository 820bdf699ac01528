"""The tests of a stream that a script leads: rows of prompts and references, or functions that score a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..base.errors import DataError, Problem
from ..evaluation.intervals import bootstrap_mean
from ..evaluation.items import FIELDS, TaskScore, is_percentage
from ..evaluation.option_lists import read_options


#: Scores a model: the score of every item (0-100), or a whole `TaskScore`.
ScoreFunction: TypeAlias = Callable[[Any], "Sequence[float] | TaskScore"]
#: The test of one task, as a user gives it.
Test: TypeAlias = "Iterable[Mapping[str, Any]] | ScoreFunction"
_SHOWN = 20  # problems of one test set


@dataclass(frozen=True)
class TestRow:
    """One row of a test set.

    Attributes:
        id: Unique within the test set.
        prompt: The text of the last user turn.
        reference: The expected answer.
        raw: The row as it was given.
        options: Option texts of a multiple-choice question.
        fields: What some scorers ask besides.
    """

    __test__ = False

    id: str
    prompt: str
    reference: str
    raw: Mapping[str, Any]
    options: tuple[str, ...] | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> list[Any]:
        """Its pictures, as the processor takes them."""
        given = self.raw.get("images", self.raw.get("image"))
        if given is None:
            return []
        return list(given) if isinstance(given, list | tuple) else [given]


def read_rows(task: str, rows: Iterable[Mapping[str, Any]]) -> tuple[TestRow, ...]:
    """Check the rows of a test set.

    Args:
        task: Name of the task.
        rows: Mappings with ``prompt`` (a text, or messages) and ``reference`` or ``completion`` (a text, or one message of
            the assistant); further keys are ``id``, ``options``, ``images``, ``input_ids`` (the tokens of the prompt) and
            those of `FIELDS`.

    Raises:
        DataError: With every problem of the rows.
    """
    found: list[TestRow] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows):
        where = f"tests['{task}'][{number}]"
        if not isinstance(row, Mapping):
            problems.append(
                Problem(where, f"is a {type(row).__name__}.", "Give mappings with `prompt` and `reference`.")
            )
            continue
        row = {str(key): value for key, value in row.items() if value is not None}
        prompt = _text(row.get("prompt"), "user")
        key = "reference" if "reference" in row else "completion"
        reference = _text(row.get(key), "assistant")
        if prompt is None and "input_ids" not in row:
            what = "has no `prompt` that is a text or a list of messages."
            problems.append(Problem(where, what, "Give the prompt as in training, without the answer."))
        if reference is None:
            what = "has no `reference` (or `completion`) that is a text or a message of the assistant."
            problems.append(Problem(where, what, "Give the answer that counts as right."))
        if problems:
            continue
        try:
            options = read_options(row.get("options"))
        except ValueError as error:
            problems.append(Problem(f"{where}.options", f"{error}.", "Correct the row."))
            continue
        found.append(
            TestRow(
                str(row.get("id", f"{task}/{number}")),
                (prompt or "").strip(),
                (reference or "").strip(),
                row,
                options,
                {name: row[name] for name in FIELDS if name in row},
            )
        )
    if not found and not problems:
        problems.append(Problem(f"tests['{task}']", "is empty.", "Give at least one row, or leave the task out."))
    if problems:
        raise DataError(problems[:_SHOWN])
    return tuple(found)


def _text(value: Any, role: str) -> str | None:
    """A text, or that of the last message of a role; None if there is none."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        return None
    turns = [m for m in value if isinstance(m, Mapping) and m.get("role") == role]
    content = turns[-1].get("content") if turns else None
    if isinstance(content, str) or content is None:
        return content
    parts = [p.get("text") for p in content if isinstance(p, Mapping) and p.get("type", "text") == "text"]
    return "\n".join(part for part in parts if isinstance(part, str))


def record_of_test(test: tuple[TestRow, ...] | ScoreFunction) -> dict[str, Any]:
    """What identifies a test, for ``run.json``: a hash of its rows with their pictures, or the name of its function."""
    if callable(test):
        return {"function": name_of(test)}
    digest = hashlib.sha256()
    for row in test:
        digest.update(json.dumps(row.raw, sort_keys=True, default=_plain).encode())
    return {"rows": len(test), "sha256": digest.hexdigest()}


def name_of(function: Any) -> str:
    """The name of a function, for people."""
    return str(getattr(function, "__name__", type(function).__name__))


def _plain(value: Any) -> Any:
    """What stands for a value that is not JSON: its content, where that can be read."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if callable(read := getattr(value, "tobytes", None)):  # a picture, an array
        about = f"{getattr(value, 'mode', '')} {getattr(value, 'size', '')} {getattr(value, 'dtype', '')} "
        return hashlib.sha256(about.encode() + read()).hexdigest()
    if callable(as_list := getattr(value, "tolist", None)):
        return as_list()
    return type(value).__name__


def scored_by(function: ScoreFunction, model: Any, task: str) -> TaskScore:
    """Let a user's function score a model.

    Args:
        function: The function.
        model: The model that answers.
        task: Name of the task, for messages.

    Returns:
        The score; ``function:<name>`` stands in place of a scorer unless the function says which.

    Raises:
        DataError: If it returns something else than scores from 0 to 100.
    """
    found = function(model)
    if isinstance(found, TaskScore):
        return found
    where = f"tests['{task}'] ({name_of(function)})"
    fix = "Return the score of every item, each from 0 to 100, or a `TaskScore`."
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping):
        raise DataError(Problem(where, f"returned {type(found).__name__}.", fix))
    items = [float(v) if isinstance(v, int | float) or hasattr(v, "item") else v for v in found]
    wrong = next((value for value in items if not is_percentage(value)), None)
    if wrong is not None or not items:
        what = f"returned {wrong!r} among the scores." if items else "returned no score."
        raise DataError(Problem(where, what, fix))
    mean = sum(items) / len(items)
    low, high = bootstrap_mean(items)
    return TaskScore(f"function:{name_of(function)}", mean, len(items), (low, high), "bootstrap", tuple(items))
