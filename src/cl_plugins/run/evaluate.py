"""The step ``evaluate``: one test set, answered by the model in memory, scored and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapters.partitioned import forward_gathers
from ..evaluation.generate import generate
from ..evaluation.items import Item, TaskScore, predictions_to_jsonl
from ..evaluation.matrix import ScoreMatrix
from ..evaluation.metrics import continual_metrics, metrics_to_json
from ..evaluation.scorers import get_scorer
from . import ranks
from .files import artefact, write_bytes, write_json
from .plan import ZERO_SHOT, Step, rows
from .state import RunState


def evaluate(state: RunState, step: Step, plan: list[Step]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answer and score one test set.

    Args:
        state: The run.
        step: The step.
        plan: All steps, for the shape of the matrix.

    Returns:
        Artefacts and details for the journal.
    """
    task = state.config.stream.task(str(step.task))
    session = state.session
    tests = state.tests(task)
    model = state.answering(None if step.row == ZERO_SHOT else state.carry, task.name)

    partitioned = session.base.partitioned
    mine = share([t.feature for t in tests], ranks.rank(), ranks.world_size(), equal=partitioned)

    def on_batch(count: int) -> None:
        state.progress.advance(count)
        if ranks.world_size() == 1:
            state.stop.check()

    with forward_gathers(model):
        texts = generate(
            model,
            session.tokenizer,
            session.collator(model, training=False),
            [tests[i].feature for i in mine],
            max_new_tokens=state.config.max_new_tokens(task.name),
            batch_size=session.args.training.per_device_eval_batch_size,
            eos_token_ids=session.eos_token_ids(),
            autocast_dtype=session.autocast_dtype(),
            synced=partitioned,
            on_batch=on_batch,
        )
    answers: dict[int, str] = {}
    for part in ranks.gather(dict(zip(mine, texts, strict=True))):
        answers.update(part)

    def write() -> tuple[dict[str, Any], dict[str, Any]]:
        items = [Item(t.id, t.prompt, answers[i], t.reference, t.options) for i, t in enumerate(tests)]
        score = score_items(items, task.scorer, state.config.eval.max_items)
        folder = state.root / "predictions" / str(step.row)
        predictions, summary = folder / f"{task.name}.jsonl", folder / f"{task.name}.score.json"
        write_bytes(predictions, predictions_to_jsonl(items, score).encode())
        write_json(summary, score.to_dict())
        artefacts = artefact(state.root, predictions) | artefact(state.root, summary)
        return artefacts, {"score": score.score, "n": score.n}

    result = ranks.on_main(write)
    return result


def share(features: Sequence[Mapping[str, Any]], rank: int, world_size: int, *, equal: bool) -> list[int]:
    """Numbers of the items that a rank answers: every ``world_size``-th.

    Args:
        features: All items.
        rank: The rank.
        world_size: Number of ranks.
        equal: All ranks must call the model equally often (split tensors): a share that is one short answers its last
            item twice, and if some items have pictures and others none, so that the calls differ, every rank answers
            all items.
    """
    mine = list(range(rank, len(features), world_size))
    if equal:
        kinds = {tuple(sorted(key for key in ("images", "videos", "audios") if f.get(key))) for f in features}
        if len(kinds) > 1 or len(features) < world_size:
            return list(range(len(features)))
        if len(mine) < -(-len(features) // world_size):
            mine.append(mine[-1])
    return mine


def score_items(items: list[Item], scorer: str, max_items: int | None) -> TaskScore:
    """Score items and note how far the test set was cut."""
    import dataclasses

    score = get_scorer(scorer).score(items)
    return dataclasses.replace(score, max_items=max_items)


def build_matrix(
    root: Path, plan: list[Step], stream: str, method: str, tasks: list[str], scorers: dict[str, str]
) -> ScoreMatrix:
    """The score matrix out of the score files that are there.

    Args:
        root: The output directory.
        plan: All steps.
        stream: Name of the stream.
        method: Name of the method.
        tasks: Names of the tasks in order.
        scorers: Task -> name of its scorer.
    """
    names = rows(plan)
    cells = {row: _row(root, row, tasks) for row in [ZERO_SHOT, *names]}
    known = {task: score for row in cells.values() for task, score in row.items()}
    regular = names == [f"after_{task}" for task in tasks]
    return ScoreMatrix(
        stream=stream,
        method=method,
        tasks=list(tasks),
        scorers={t: known[t].scorer if t in known else get_scorer(scorers[t]).key for t in tasks},
        n={t: known[t].n if t in known else 0 for t in tasks},
        zero_shot=[cells[ZERO_SHOT][t].score if t in cells[ZERO_SHOT] else None for t in tasks],
        scores=[[cells[row][t].score if t in cells[row] else None for t in tasks] for row in names],
        rows=None if regular else names,
    )


def _row(root: Path, row: str, tasks: list[str]) -> dict[str, TaskScore]:
    found = {}
    for task in tasks:
        path = root / "predictions" / row / f"{task}.score.json"
        if path.is_file():
            found[task] = TaskScore.from_dict(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    return found


def write_matrix(root: Path, matrix: ScoreMatrix) -> list[Path]:
    """Write ``matrix.json`` and ``metrics.json``."""
    write_bytes(root / "matrix.json", matrix.to_json().encode())
    write_bytes(root / "metrics.json", metrics_to_json(continual_metrics(matrix)).encode())
    return [root / "matrix.json", root / "metrics.json"]
