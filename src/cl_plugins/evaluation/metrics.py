"""Continual metrics: pure functions of the accuracy matrix.

``R`` is a list of rows; ``R[i][j]`` here stands, as in the papers, for the score (0-100) on task j after training task i,
with i and j from 1 to T, and ``b_j`` for the zero-shot score on task j. In code the indices start at 0. A cell may be None
(not evaluated); missing rows at the end count as rows of None. A function gives None when a cell it needs is missing.
The zero-shot row is never part of A_k, Average or forgetting.

Sources: GEM: Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory for Continual Learning", NeurIPS. Chaudhry: Chaudhry
et al. 2018, "Riemannian Walk for Incremental Learning", ECCV. CoIN: Chen et al. 2024, "CoIN: A Benchmark of Continual
Instruction Tuning for Multimodal Large Language Models", NeurIPS. MLLM-CL: Zhao et al. 2025, "MLLM-CL: Continual
Learning for Multimodal Large Language Models".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import DataError, Problem
from ..records.record import dump
from ..records.results import JOINT, ZERO_SHOT, MetricsRecord
from .drift import Drifts
from .matrix import AccuracyMatrix


Matrix = Sequence[Sequence[float | None]]
#: (i, j), both from 1; i = 0 is the zero-shot row.
Cell = tuple[int, int]


def a_k(R: Matrix) -> list[float | None]:
    """A_k, the mean over the tasks seen so far after training task k, for k = 1..T.

    ``A_k = 1/k · sum_{j<=k} R[k][j]`` (the "Average" row of MLLM-CL is this vector; A_T is Last).
    """
    square = _square(R)
    return [_mean(square, [(k, j) for j in range(1, k + 1)]) for k in range(1, len(square) + 1)]


def last(R: Matrix) -> float | None:
    """Last: the mean over all tasks after the final one.

    ``1/T · sum_j R[T][j]`` = A_T; ACC in GEM, Last in MLLM-CL, the same number as `mfn`.
    """
    square = _square(R)
    return _mean(square, _last_row(len(square)))


def average(R: Matrix) -> float | None:
    """Average (MAA, mean average accuracy): the mean of A_k over k (CoIN; "Average" in MLLM-CL's text).

    ``1/T · sum_k A_k``; weighs early tasks more, because they are part of more A_k.
    """
    values = a_k(R)
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(values) if len(known) == len(values) else None


def mft(R: Matrix) -> float | None:
    """MFT, mean fine-tune accuracy: each task right after its own training (CoIN, MCITlib).

    ``1/T · sum_k R[k][k]``.
    """
    square = _square(R)
    return _mean(square, _diagonal(len(square)))


def mfn(R: Matrix) -> float | None:
    """MFN, mean final accuracy (CoIN, MCITlib): the same number as `last`.

    ``1/T · sum_j R[T][j]``.
    """
    return last(R)


def bwt(R: Matrix) -> float | None:
    """BWT, backward transfer (GEM, equation 3); negative where tasks were forgotten.

    ``1/(T-1) · sum_{j<T} (R[T][j] - R[j][j])``. The divisor is T-1; for the variant with T see `mfn_minus_mft`.
    None for a single task.
    """
    square = _square(R)
    if len(square) < 2:
        return None
    final, learned = _take(square, _last_row(len(square))[:-1]), _take(square, _diagonal(len(square))[:-1])
    if final is None or learned is None:
        return None
    return math.fsum(f - d for f, d in zip(final, learned, strict=True)) / (len(square) - 1)


def mfn_minus_mft(R: Matrix) -> float | None:
    """MFN - MFT: backward transfer divided by T instead of T-1, since the last task adds a zero.

    ``1/T · sum_j (R[T][j] - R[j][j])`` = BWT · (T-1)/T.
    """
    final, learned = mfn(R), mft(R)
    return None if final is None or learned is None else final - learned


def forgetting(R: Matrix) -> float | None:
    """Forgetting (Chaudhry et al. 2018, equation 2): how far each task fell from its best score.

    ``1/(T-1) · sum_{j<T} (max_{j<=l<T} R[l][j] - R[T][j])``. Here l starts at j: the zero-shot row and rows before
    the task was trained are excluded. Negative where a task is best at the end. At least -BWT, because the
    maximum includes R[j][j]. None for a single task.
    """
    square = _square(R)
    T = len(square)
    if T < 2:
        return None
    falls = []
    for j in range(1, T):
        earlier, final = _take(square, [(row, j) for row in range(j, T)]), square[T - 1][j - 1]
        if earlier is None or final is None:
            return None
        falls.append(max(earlier) - final)
    return math.fsum(falls) / (T - 1)


def fwt(R: Matrix, zero_shot: Sequence[float | None]) -> float | None:
    """FWT, forward transfer (GEM, equation 4), with the zero-shot score as b_j.

    ``1/(T-1) · sum_{j>=2} (R[j-1][j] - b_j)``: what the tasks before j did for it. GEM's b_j is the score at random
    initialisation; a pretrained model starts from its zero-shot score. Needs cells above the diagonal
    (``eval: {scope: all}``). None for a single task.

    Args:
        R: The matrix.
        zero_shot: b_1..b_T.
    """
    square = _square(R)
    T = len(square)
    if T < 2:
        return None
    before = _take(square, [(j - 1, j) for j in range(2, T + 1)])
    start = [value for value in zero_shot[1:T] if value is not None]
    if before is None or len(start) < T - 1:
        return None
    return math.fsum(r - b for r, b in zip(before, start, strict=True)) / (T - 1)


@dataclass(frozen=True)
class Metric:
    """A continual metric with what is needed to read it.

    Attributes:
        value: The number, 0-100 for means and in points for differences; None where it is not defined.
        values: A_1..A_T for ``a_k``; None for metrics that are one number.
        reason: Why the value, or one of the values, is None; None where all is there.
        divisor: The divisor of the outer mean.
        formula: The formula in plain text.
    """

    value: float | None
    reason: str | None
    divisor: str
    formula: str
    values: tuple[float | None, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``metrics.json``: ``values`` for a vector, ``value`` otherwise."""
        number: dict[str, Any] = {"value": self.value} if self.values is None else {"values": list(self.values)}
        return {**number, "reason": self.reason, "divisor": self.divisor, "formula": self.formula}


@dataclass(frozen=True)
class _Definition:
    """How to compute a metric, and which cells it needs for T tasks."""

    compute: Callable[[Matrix, Sequence[float | None]], float | None]
    needs: Callable[[int], list[Cell]]
    divisor: str
    formula: str
    least_tasks: int = 1


def _last_row(T: int) -> list[Cell]:
    return [(T, j) for j in range(1, T + 1)]


def _diagonal(T: int) -> list[Cell]:
    return [(k, k) for k in range(1, T + 1)]


def _lower(T: int) -> list[Cell]:
    return [(k, j) for k in range(1, T + 1) for j in range(1, k + 1)]


_A_K = _Definition(lambda R, _: None, _lower, "k", "A_k = 1/k * sum_{j<=k} R[k][j]")
_SCALARS: dict[str, _Definition] = {
    "last": _Definition(lambda R, _: last(R), _last_row, "T", "1/T * sum_j R[T][j] = A_T"),
    "average": _Definition(lambda R, _: average(R), _lower, "T", "1/T * sum_k A_k"),
    "mft": _Definition(lambda R, _: mft(R), _diagonal, "T", "1/T * sum_k R[k][k]"),
    "mfn": _Definition(lambda R, _: mfn(R), _last_row, "T", "1/T * sum_j R[T][j]"),
    "bwt": _Definition(
        lambda R, _: bwt(R),
        lambda T: [*_diagonal(T - 1), *_last_row(T)[:-1]],
        "T-1",
        "1/(T-1) * sum_{j<T} (R[T][j] - R[j][j])",
        2,
    ),
    "mfn_minus_mft": _Definition(
        lambda R, _: mfn_minus_mft(R),
        lambda T: [*_diagonal(T - 1), *_last_row(T)],
        "T",
        "1/T * sum_j (R[T][j] - R[j][j])",
    ),
    "forgetting": _Definition(
        lambda R, _: forgetting(R),
        lambda T: [(i, j) for i, j in _lower(T) if j < T],
        "T-1",
        "1/(T-1) * sum_{j<T} (max_{j<=l<T} R[l][j] - R[T][j])",
        2,
    ),
    "fwt": _Definition(
        fwt,
        lambda T: [*((0, j) for j in range(2, T + 1)), *((j - 1, j) for j in range(2, T + 1))],
        "T-1",
        "1/(T-1) * sum_{j>=2} (R[j-1][j] - R[zero_shot][j])",
        2,
    ),
}
#: The order in which tables show them.
NAMES = ("last", "average", "a_k", "mft", "mfn", "bwt", "mfn_minus_mft", "forgetting", "fwt")


def continual_metrics(matrix: AccuracyMatrix) -> dict[str, Metric]:
    """All continual metrics of a run, in the order of `NAMES`.

    What a partial matrix allows is computed; the rest is None with the missing cells as the reason. A joint model
    (``rows == ["joint"]``) has Last and MFN only. Where the rows are independent models only MFT has a meaning, whatever
    else was evaluated. Tasks that are only tested do not count.

    Args:
        matrix: The accuracy matrix.
    """
    if matrix.test_only:
        matrix = matrix.of_trained()
    if matrix.rows == [JOINT]:
        return _joint(matrix)
    R, zero_shot, T = matrix.after_each_task(), matrix.zero_shot, len(matrix.tasks)
    metrics = {}
    for name in NAMES:
        definition = _SCALARS.get(name, _A_K)
        if matrix.independent and name != "mft":
            reason = f"every task has its own model ({matrix.method}): there is no sequence of tasks"
            metrics[name] = _undefined(name, reason, T)
        elif T < definition.least_tasks:
            metrics[name] = _undefined(name, f"defined for {definition.least_tasks} tasks or more", T)
        else:
            missing = _missing(matrix, R, definition.needs(T))
            value = definition.compute(R, zero_shot)
            values = tuple(a_k(R)) if name == "a_k" else None
            metrics[name] = Metric(value, missing, definition.divisor, definition.formula, values)
    return metrics


def _joint(matrix: AccuracyMatrix) -> dict[str, Metric]:
    """The metrics of a model that was trained on all tasks at once."""
    T = len(matrix.tasks)
    reason = "all tasks were trained at once (joint): there is no sequence of tasks"
    metrics = {name: _undefined(name, reason, T) for name in NAMES}
    row = matrix.scores[0] if matrix.scores else [None] * T
    lacking = [f"R[{JOINT}][{task}]" for task, value in zip(matrix.tasks, row, strict=True) if value is None]
    missing = "needs " + ", ".join(lacking) if lacking else None
    known = [value for value in row if value is not None]
    value = None if missing else math.fsum(known) / T
    for name in ("last", "mfn"):
        metrics[name] = Metric(value, missing, "T", f"1/T * sum_j R[{JOINT}][j]")
    return metrics


def _undefined(name: str, reason: str, T: int) -> Metric:
    """A metric that does not apply."""
    definition = _SCALARS.get(name, _A_K)
    values = (None,) * T if name == "a_k" else None
    return Metric(None, reason, definition.divisor, definition.formula, values)


def _missing(matrix: AccuracyMatrix, R: Matrix, cells: Sequence[Cell]) -> str | None:
    """The reason that names every missing cell, or None."""
    lacking = []
    for i, j in cells:
        row = R[i - 1] if i else matrix.zero_shot
        if row[j - 1] is None:
            name = f"after {matrix.tasks[i - 1]}" if i else ZERO_SHOT
            lacking.append(f"R[{name}][{matrix.tasks[j - 1]}]")
    return "needs " + ", ".join(lacking) if lacking else None


def _square(R: Matrix) -> list[list[float | None]]:
    """R as T x T, with missing rows at the end filled up."""
    T = len(R[0]) if len(R) else 0
    if not T or len(R) > T or any(len(row) != T for row in R):
        shape = f"{len(R)} rows of {sorted({len(row) for row in R})} cells"
        fix = "R needs one column per task and at most one row per task."
        raise DataError(Problem("R", f"has {shape}.", fix))
    return [list(row) for row in R] + [[None] * T for _ in range(T - len(R))]


def _take(R: Matrix, cells: Sequence[Cell]) -> list[float] | None:
    """The scores in some cells, or None when one is missing."""
    values = [value for i, j in cells if (value := R[i - 1][j - 1]) is not None]
    return values if len(values) == len(cells) else None


def _mean(R: Matrix, cells: Sequence[Cell]) -> float | None:
    values = _take(R, cells)
    return None if values is None else math.fsum(values) / len(values)


def metrics_to_dict(metrics: dict[str, Metric], probes: Drifts | None = None) -> dict[str, Any]:
    """The content of ``metrics.json`` as plain JSON types.

    Args:
        metrics: The metrics.
        probes: What the probes have measured; the key is left out where there are none.
    """
    content: dict[str, Any] = {"metrics": {name: metric.to_dict() for name, metric in metrics.items()}}
    if probes:
        content["probes"] = {name: probe.model_dump() for name, probe in probes.items()}
    return MetricsRecord.content(content)


def metrics_to_json(metrics: dict[str, Metric], probes: Drifts | None = None) -> str:
    """The text of ``metrics.json``; see `metrics_to_dict`."""
    return dump(metrics_to_dict(metrics, probes), 1) + "\n"
