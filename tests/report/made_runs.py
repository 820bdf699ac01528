"""Run directories as a finished or unfinished run would leave them, without running one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


FORMULAE = {
    "last": ("T", "1/T * sum_j R[T][j]"),
    "average": ("T", "1/T * sum_k A_k"),
    "mft": ("T", "1/T * sum_k R[k][k]"),
    "bwt": ("T-1", "1/(T-1) * sum_{j<T} (R[T][j] - R[j][j])"),
    "forgetting": ("T-1", "1/(T-1) * sum_{j<T} (max_{l<T} R[l][j] - R[T][j])"),
    "fwt": ("T-1", "1/(T-1) * sum_{j>1} (R[j-1][j] - R[0][j])"),
}


def wilson(score: float, n: int) -> list[float]:
    p, z = score / 100, 1.959964
    mid, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [100 * (mid - half) / (1 + z * z / n), 100 * (mid + half) / (1 + z * z / n)]


def metrics_of(tasks: list[str], scores: list[list[float | None]], names: list[str] | None) -> dict[str, Any]:
    count = len(tasks)
    values: dict[str, float | None] = dict.fromkeys(FORMULAE)
    means: list[float | None] = []
    if (
        names is None
        and len(scores) == count
        and all(r[j] is not None for i, r in enumerate(scores) for j in range(i + 1))
    ):
        means = [sum(row[: k + 1]) / (k + 1) for k, row in enumerate(scores)]
        values["last"], values["average"] = means[-1], sum(means) / count
        values["mft"] = sum(scores[k][k] for k in range(count)) / count
        if count > 1:
            drops = [scores[-1][j] - scores[j][j] for j in range(count - 1)]
            values["bwt"] = sum(drops) / (count - 1)
            best = [max(scores[i][j] for i in range(j, count - 1)) for j in range(count - 1)]
            values["forgetting"] = sum(best[j] - scores[-1][j] for j in range(count - 1)) / (count - 1)
    if names == ["joint"] and None not in scores[0]:
        values["last"] = sum(scores[0]) / count
    found: dict[str, Any] = {
        key: {
            "value": value,
            "reason": None if value is not None else "it needs cells that were not measured",
            "divisor": FORMULAE[key][0],
            "formula": FORMULAE[key][1],
        }
        for key, value in values.items()
    }
    found["a_k"] = {"values": means, "reason": None, "divisor": "k", "formula": "1/k * sum_{j<=k} R[k][j]"}
    return {"format": 1, "metrics": found}


def make_run(
    directory: Path,
    tasks: list[str],
    scores: list[list[float | None]],
    zero_shot: list[float | None] | None = None,
    method: str = "inclora",
    stream: str = "demo",
    rows: list[str] | None = None,
    bleu: tuple[str, ...] = (),
    seed: int | None = 42,
    recipe: dict[str, Any] | None = None,
    max_items: int | None = None,
    notes: list[str] | None = None,
    intervals: bool = True,
    metrics: bool = True,
    independent: bool = False,
    record: dict[str, Any] | None = None,
) -> Path:
    """Write matrix.json, metrics.json, run.json and the score files of a made-up run."""
    directory.mkdir(parents=True, exist_ok=True)
    n = dict.fromkeys(tasks, max_items or 120)
    scorers = {task: "bleu@1" if task in bleu else "choice_accuracy@2" for task in tasks}
    matrix: dict[str, Any] = {
        "format": 1,
        "stream": stream,
        "method": method,
        "tasks": tasks,
        "scorers": scorers,
        "n": n,
    }
    matrix |= {"zero_shot": zero_shot or [None] * len(tasks), "scores": scores} | ({"rows": rows} if rows else {})
    matrix |= {"independent": True} if independent else {}
    dump(directory / "matrix.json", matrix)
    if metrics:
        dump(directory / "metrics.json", metrics_of(tasks, scores, rows))
    if seed is not None:
        run = {
            "format": 1,
            "recipe": recipe
            or {
                "model_name_or_path": "base",
                "learning_rate": 2e-3,
                "seed": seed,
                "output_dir": str(directory.name),
                "hf_hub_token": "hf_verysecret",
                "cl": {"stream": stream, "method": {"name": method}, "eval": {"scope": "seen", "max_new_tokens": 16}},
            },
            "stream": {"name": stream, "tasks": []},
            "method": method,
            "seed": seed,
            "base": {"model_type": "llava", "sha256": "ab" * 32},
            "data": {task: {"train": "12" * 8, "test": "34" * 8} for task in tasks},
            "versions": {"cl-plugins": "0.1.0", "llamafactory": "0.9.5", "torch": "2.14.1"},
            "hardware": {"cpu": "2 cores", "gpus": []},
            "peak_memory_bytes": 1_503_238_553,
            "seconds": 214.6,
            "sizes": {"carry": 90112, "final": 5242880},
        }
        dump(directory / "run.json", run | ({"notes": notes} if notes else {}) | (record or {}))
    if intervals:
        lines = [("zero_shot", zero_shot)] if zero_shot else []
        lines += list(zip(rows or [f"after_{task}" for task in tasks], scores, strict=False))
        for name, line in lines:
            for task, score in zip(tasks, line, strict=True):
                if score is None:
                    continue
                rate = task not in bleu
                ends = wilson(score, n[task]) if rate else [max(0.0, score - 2.1), score + 2.4]
                extra = (
                    {"invalid_rate": 1.7, "random_baseline": 50.0, "majority_baseline": 48.3}
                    if rate
                    else {
                        "signature": "x",
                        "shuffled_floor": 2.2,
                        "constant_baseline": 3.9,
                        "constant_answer": "a scan | of",
                    }
                )
                saved = {"format": 1, "scorer": scorers[task], "score": score, "n": n[task], "interval": ends}
                saved |= {"interval_method": "wilson" if rate else "bootstrap", "extra": extra, "max_items": max_items}
                dump(directory / "predictions" / name / f"{task}.score.json", saved)
    return directory


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


DEMO_TASKS = ["path", "neuro", "cell", "rad"]
DEMO_ZERO: list[float | None] = [48.33, 33.33, 25.83, 4.2]
DEMO_SCORES: list[list[float | None]] = [
    [98.33, None, None, None],
    [63.33, 75.83, None, None],
    [55.83, 52.5, 70.0, None],
    [51.67, 46.67, 58.33, 31.4],
]


def demo_run(directory: Path, **changes: Any) -> Path:
    """A finished run of four tasks, tests of seen tasks only."""
    settings: dict[str, Any] = {"zero_shot": DEMO_ZERO, "bleu": ("rad",)} | changes
    return make_run(directory, settings.pop("tasks", DEMO_TASKS), settings.pop("scores", DEMO_SCORES), **settings)
