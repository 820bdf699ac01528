"""Result files of other programs: what each of them has measured, on which of its tasks, with which metric.

What a file is, is read off its content. Nothing in it is opened, loaded or run. Read in the sources of lm-evaluation-harness
0.4.13, lmms-eval 0.7.3, EvalScope 1.0 and 1.10 (fde259d), ms-swift 4.6 (3602360) and VLMEvalKit (e8e78f0).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem
from ..base.outside import JSON_LIMIT, OutsideError, parse_json, read_text
from ..records.record import shown


#: Metrics that lm-evaluation-harness and lmms-eval give from 0 to 100; all others are fractions.
PERCENTAGES = ("bleu", "chrf", "ter")
_KNOWN = (
    "Known are results_*.json of lm-evaluation-harness and lmms-eval, reports of EvalScope, the result_jsonl of ms-swift's "
    "eval, and score files (CSV, JSON) of VLMEvalKit."
)


@dataclass(frozen=True)
class Measured:
    """One number of a result file.

    Attributes:
        program: Which program wrote it, as a scorer's name begins.
        task: Its own name of the task.
        metric: Its name of the metric.
        value: The number as written.
        percent: Whether it is a percentage (True) or a fraction (False); None where the program writes both.
        n: Number of items, where the file says.
        lower: Whether the file says that a lower value is better.
    """

    program: str
    task: str
    metric: str
    value: float
    percent: bool | None
    n: int | None = None
    lower: bool = False

    @property
    def scorer(self) -> str:
        """What it is a score of, for tables and comparisons."""
        return f"{self.program}:{self.task}:{self.metric}"


def read_result_file(path: Path) -> list[Measured]:
    """Everything that a result file has measured.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read, is of no known form, or holds a number that is none; names every place.
    """
    try:
        text = read_text(path, JSON_LIMIT)
    except FileNotFoundError as error:
        raise DataError(Problem(str(path), "does not exist.", "Check the path.")) from error
    except (OSError, OutsideError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Give a text file.")) from error
    problems: list[Problem] = []
    try:
        found = list(_read(path, text, problems))
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        what = f"has a form that is not known ({type(error).__name__}: {shown(str(error))})."
        raise DataError([*problems, Problem(str(path), what, _KNOWN)]) from error
    if not found and not problems:
        problems.append(Problem(str(path), "holds no score.", _KNOWN))
    if problems:
        raise DataError(problems)
    return found


def _read(path: Path, text: str, problems: list[Problem]) -> Iterator[Measured]:
    if path.suffix.lower() == ".csv":
        yield from _vlmeval_csv(path, text, problems)
        return
    values = _json(path, text)
    if len(values) != 1:
        what = f"holds {len(values)} evaluations, one per line."
        problems.append(Problem(str(path), what, "Keep the line of one evaluation in a file of its own."))
        return
    (value,) = values
    where = str(path)
    if isinstance(value, Mapping) and isinstance(value.get("results"), Mapping):
        yield from _harness(where, value, problems)
    elif isinstance(value, Mapping) and isinstance(value.get("metrics"), list):
        yield from _evalscope(where, value, problems)
    elif isinstance(value, Mapping) and any(key in value for key in ("Native", "OpenCompass", "VLMEvalKit")):
        yield from _swift(where, value, problems)
    elif isinstance(value, Mapping | list):
        yield from _vlmeval(_stem(path), where, value, problems)
    else:
        problems.append(Problem(where, f"is {type(value).__name__}, not a JSON object.", _KNOWN))


def _json(path: Path, text: str) -> list[Any]:
    """The JSON value of a file, or the values of its lines."""
    try:
        return [parse_json(text)]
    except ValueError as whole:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if len(lines) < 2 and path.suffix.lower() != ".jsonl":
            raise DataError(Problem(str(path), f"is not JSON ({shown(str(whole))}).", _KNOWN)) from whole
    found = []
    for number, line in lines:
        try:
            found.append(parse_json(line))
        except ValueError as error:
            where = f"{path}, line {number}"
            raise DataError(Problem(where, f"is not JSON ({shown(str(error))}).", _KNOWN)) from error
    return found


def _harness(where: str, value: Mapping[str, Any], problems: list[Problem]) -> Iterator[Measured]:
    """``results_*.json`` of lm-evaluation-harness, ``*_results.json`` of lmms-eval."""
    program = "lmms_eval" if "lmms_eval_version" in value else "lm_eval"
    better, counts = value.get("higher_is_better") or {}, value.get("n-samples") or {}
    for task, numbers in value["results"].items():
        for key, number in numbers.items():
            metric, comma, _ = key.partition(",")
            if not comma or "_stderr" in metric or number in ("N/A", None, "", " ", []):
                continue
            found = _number(f"{where}, results.{task}.{key}", number, problems)
            if found is not None:
                n = (counts.get(task) or {}).get("effective")
                lower = (better.get(task) or {}).get(metric) is False
                percent = metric.startswith(PERCENTAGES)
                yield Measured(program, str(task), key, found, percent, n if isinstance(n, int) else None, lower)


def _evalscope(where: str, value: Mapping[str, Any], problems: list[Problem]) -> Iterator[Measured]:
    """A report of EvalScope: with names of metrics (1.0 to 1.9), or with identities (schema 2)."""
    task, primary = str(value["dataset_name"]), value.get("primary_metric_identity")
    metrics = sorted(value["metrics"], key=lambda each: each.get("identity") != primary if primary else False)
    for number, each in enumerate(metrics):
        identity = each.get("identity") or {}
        size = (identity.get("dimensions") or {}).get("k")
        words = [identity.get("name"), identity.get("aggregation"), None if size is None else str(size)]
        name = str(each.get("name") or each.get("legacy_name") or ":".join(str(word) for word in words if word))
        found = _number(f"{where}, metrics[{number}].score", each["score"], problems)
        lower = (each.get("semantics") or {}).get("direction") == "lower_is_better"
        n = each.get("num")
        if found is not None:
            yield Measured("evalscope", task, name, found, False, n if isinstance(n, int) else None, lower)


def _swift(where: str, value: Mapping[str, Any], problems: list[Problem]) -> Iterator[Measured]:
    """A line of ms-swift's ``result_jsonl``: reports of EvalScope, or numbers of OpenCompass and VLMEvalKit."""
    for number, report in enumerate(value.get("Native") or []):
        yield from _evalscope(f"{where}, Native[{number}]", report, problems)
    for task, numbers in (value.get("OpenCompass") or {}).items():
        for metric, number in numbers.items():
            found = _number(f"{where}, OpenCompass.{task}.{metric}", number, problems)
            if found is not None:
                yield Measured("opencompass", str(task), str(metric), found, True)
    for task, numbers in (value.get("VLMEvalKit") or {}).items():
        for metric, table in numbers.items():
            inside = f"{where}, VLMEvalKit.{task}.{metric}"
            rows = table if isinstance(table, Mapping) else {str(metric): table}
            yield from _vlmeval(str(task), inside, rows, problems)


def _vlmeval_csv(path: Path, text: str, problems: list[Problem]) -> Iterator[Measured]:
    """A score file of VLMEvalKit: a head, and a row per split."""
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        problems.append(Problem(str(path), f"cannot be read as CSV ({error}).", _KNOWN))
        return
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        return
    head = lines[0]
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path}, line {number}"
        if len(line) != len(head):
            problems.append(Problem(where, f"has {len(line)} fields for {len(head)} columns.", "Restore the line."))
            continue
        yield from _vlmeval(_stem(path), where, dict(zip(head, line, strict=True)), problems)


def _vlmeval(task: str, where: str, value: Any, problems: list[Problem]) -> Iterator[Measured]:
    """Numbers of VLMEvalKit by their columns; a split other than ``none`` stands in front of the name."""
    for number, row in enumerate(value if isinstance(value, list) else [value]):
        place = f"{where}, row {number + 1}" if isinstance(value, list) else where
        split = str(row.get("split", "none"))
        for column, cell in row.items():
            if column in ("split", "") or cell in ("", None) or isinstance(cell, Mapping | list):
                continue
            found = _number(f"{place}, {column}", cell, problems, skip=True)
            if found is not None:
                name = str(column) if split in ("none", "Overall") else f"{split}/{column}"
                yield Measured("vlmevalkit", task, name, found, None)


def _stem(path: Path) -> str:
    """``<model>_<dataset>`` of the name of a score file."""
    stem = path.stem
    for end in ("_acc", "_score", "_rating"):
        stem = stem.removesuffix(end)
    return stem


def _number(where: str, value: Any, problems: list[Problem], *, skip: bool = False) -> float | None:
    """A finite number; None after noting a problem, or without one where texts may be skipped."""
    if isinstance(value, str):
        try:
            value = float(value.strip().removesuffix("%"))
        except ValueError:
            if skip:
                return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        problems.append(Problem(where, f"{shown(repr(value))} is no finite number.", "Restore the file."))
        return None
    return float(value)


def chosen(path: Path, found: Sequence[Measured], task: str, metric: str | None) -> Measured | None:
    """The number of a task in a file.

    Args:
        path: The file, for messages.
        found: From `read_result_file`.
        task: The program's name of the task; for VLMEvalKit also the end of it behind ``_``.
        metric: The metric, with or without what stands behind its comma; None for the first.

    Returns:
        The number as a percentage where the program says what it is, else as written; None where the file does not have the
        task.

    Raises:
        DataError: If the task has no such metric, or it is no score from 0 to 100.
    """
    ends = [each for each in found if each.program == "vlmevalkit" and each.task.endswith(f"_{task}")]
    of_task = [each for each in found if each.task == task] or ends
    if not of_task:
        return None
    kept = [each for each in of_task if metric in (None, each.metric, each.metric.partition(",")[0])]
    where = f"{path}, {task}"
    names = ", ".join(dict.fromkeys(each.metric for each in of_task))
    if not kept:
        raise DataError(Problem(where, f"has no metric {metric!r}.", f"Metrics: {names}."))
    one = kept[0]
    value = one.value * 100 if one.percent is False else one.value
    fix = f"Choose another one with `--metric`: {names}."
    if one.lower:
        raise DataError(Problem(where, f"has {one.metric}, which is better when it is lower.", fix))
    if not 0 <= value <= 100:
        raise DataError(Problem(where, f"has {one.metric} = {one.value:g}, which is no score.", fix))
    return replace(one, task=task, value=value)
