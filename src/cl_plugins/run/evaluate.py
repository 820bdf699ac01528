"""The steps ``evaluate`` and ``probe``: one test set, answered, scored and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.rows import state_of
from ..base import outside, ranks
from ..base.files import artefact, write_bytes
from ..base.logs import logger
from ..evaluation.drift import Drifts, drift_of_items, drifts_of
from ..evaluation.items import Item, TaskScore, predictions_to_jsonl, read_predictions
from ..evaluation.matrix import AccuracyMatrix
from ..evaluation.metrics import continual_metrics, metrics_to_json
from ..evaluation.results import MATRIX, METRICS
from ..evaluation.scorers import get_scorer
from ..evaluation.thoughts import split_thought
from ..generation.answers import Answer
from ..generation.generate import length_sorted_batches
from ..methods.registry import get_method
from . import parts
from .answers_key import answers_key
from .backends import backend_for
from .interrupt import Interrupted
from .plan import ORACLE, ZERO_SHOT, Step, rows
from .state import RunState


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.backend import Backend
    from ..contract.test_item import TestItem


def evaluate(state: RunState, step: Step, plan: list[Step]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answer and score one test set.

    Args:
        state: The run.
        step: The step.
        plan: All steps, for the shape of the matrix.

    Returns:
        Artefacts and details for the journal.
    """
    task = state.config.tested(str(step.task))
    tests = state.tests(task)
    backend = backend_for(state, step)
    with _told(state, step):
        answers = answer(state, step, tests, backend)

    def write() -> tuple[dict[str, Any], dict[str, Any]]:
        items = [item_of(test, found) for test, found in zip(tests, answers, strict=True)]
        cut = sum(item.cut for item in items)
        score = dataclasses.replace(
            score_items(items, task.scorer, state.config.eval.max_items, task.name), cut=cut, dropped=tests.dropped
        )
        learned = state.carry.tasks if state.carry is not None else ()
        score = with_routes(score, items, task.name, learned)
        if cut:
            limit = state.config.max_new_tokens(task.name)
            logger.warning(
                "%s: %d of %d answers were truncated at max_new_tokens: %d", step.key, cut, len(items), limit
            )
        if step.kind == "probe":
            score = with_drift(state, step, items, score)
        return write_answers(state, step, predictions_to_jsonl(items, score), score)

    result = ranks.on_main(write)
    return result


def write_answers(
    state: RunState, step: Step, answers: str | None, score: TaskScore, *, per_item: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the answers and the score of a test set.

    Args:
        state: The run.
        step: The step.
        answers: The text of the predictions file; None if there is none, since a function of the user gave the score.
        score: Their score.
        per_item: Whether the score file also has the scores of the items.

    Returns:
        Artefacts and details for the journal.
    """
    folder, name = state.root / step.place / str(step.row), str(step.task)
    predictions, summary = folder / f"{name}.jsonl", folder / f"{name}.score.json"
    artefacts = {}
    if answers is not None:
        write_bytes(predictions, answers.encode())
        artefacts = artefact(state.root, predictions)
    score.write(summary, per_item=per_item)
    if step.kind == "evaluate":
        state.scores[(str(step.row), name)] = score
    artefacts |= artefact(state.root, summary)
    return artefacts, {"score": score.score, "n": score.n, "cut": score.cut, "dropped": score.dropped}


def has_zero_shot(state: RunState, step: Step) -> bool:
    """Whether a probe was answered before the first task, and this row is another one."""
    return step.row != ZERO_SHOT and Step("probe", step.task, ZERO_SHOT).key in state.journal


def with_drift(state: RunState, step: Step, items: Sequence[Item], score: TaskScore) -> TaskScore:
    """The score of a probe with its difference to the zero-shot answers, where these are there.

    Args:
        state: The run.
        step: A step ``probe``.
        items: The answers.
        score: Their score.

    Returns:
        The score; ``extra`` has the difference and its interval (``drift``).
    """
    if not has_zero_shot(state, step):
        return score
    folder = state.root / step.place / ZERO_SHOT
    before = read_predictions(folder / f"{step.task}.jsonl")
    scorer = get_scorer(state.config.tested(str(step.task)).scorer, task=step.task)
    found = drift_of_items(scorer, before, items, score)
    return dataclasses.replace(score, extra={**score.extra, "drift": found})


def _told(state: RunState, step: Step) -> AbstractContextManager[None]:
    """In the row `ORACLE` the model is told the task."""
    rows = state_of(state.session.base.model) if step.row == ORACLE else None
    return rows.telling(str(step.task)) if rows is not None else nullcontext()


def item_of(test: TestItem, found: Answer) -> Item:
    """A test item with its answer, with the reasoning in front of the answer removed.

    Args:
        test: The test item.
        found: The answer.
    """
    thought, text = split_thought(found.text, test.thought_words)
    return Item(
        test.id,
        test.prompt,
        text,
        test.reference,
        test.options,
        test.fields,
        thought=thought,
        reference_thought=test.reference_thought,
        cut=found.cut,
        route=found.route,
    )


def with_routes(score: TaskScore, items: Sequence[Item], task: str, learned: Sequence[str]) -> TaskScore:
    """A score with which tasks' parts have answered, where the model has chosen.

    Args:
        score: The score.
        items: The items.
        task: The task that they belong to.
        learned: The tasks that are learned.

    Returns:
        The score; ``extra`` has the number of items by chosen task (``routes``) and, once the task is learned, the
        percentage that was given to it (``selected``).
    """
    chosen = [item.route for item in items if item.route is not None]
    if not chosen:
        return score
    counts = {name: chosen.count(name) for name in dict.fromkeys(chosen)}
    more: dict[str, Any] = {"routes": counts}
    if task in learned:
        more["selected"] = 100 * counts.get(task, 0) / len(chosen)
    return dataclasses.replace(score, extra={**score.extra, **more})


class _Stop(Exception):
    """This rank was asked to stop."""


def answer(state: RunState, step: Step, tests: Sequence[TestItem], backend: Backend) -> list[Answer]:
    """The answers to all items; what was answered before a kill is read from the disk.

    A test set of a single batch leaves nothing on the disk.

    Args:
        state: The run.
        step: The step.
        tests: The test set.
        backend: What generates.

    Raises:
        Interrupted: If the run was asked to stop; the finished batches are kept.
    """
    row, task = str(step.row), str(step.task)
    limit = state.config.max_new_tokens(task)
    batches = length_sorted_batches([len(t.tokens) for t in tests], backend.batch_size)
    sizes = [len(batch) for batch in batches]
    folder = parts.folder(state.root, row, task, step.place)
    kept = len(batches) > 1

    def begin() -> tuple[str, dict[int, list[Answer]]]:
        key = answers_key(state, step, tests, backend)
        return key, parts.read(folder, key, sizes)

    key, done = ranks.on_main(begin) if kept else ("", {})
    if done:
        count = sum(sizes[number] for number in done)
        state.progress.skip(count // ranks.world_size())
        logger.info("%s: resuming after %d of %d items", step.key, count, len(tests))
    left = [number for number in range(len(batches)) if number not in done]
    alike = len({t.kinds for t in tests}) <= 1
    mine = share(left, ranks.rank(), ranks.world_size(), equal=backend.together, alike=alike)
    writer = parts.Writer(folder, ranks.rank(), key, sizes) if kept and mine else None
    answered: dict[int, list[Answer]] = {}

    def on_batch(position: int, found: list[Answer]) -> None:
        number = mine[position]
        if number not in answered:
            answered[number] = found
            if writer is not None:
                writer.add(number, found)
            state.progress.advance(len(found))
        if state.stop.asked and not (backend.together and ranks.world_size() > 1):
            raise _Stop

    try:
        backend.answer(tests, [batches[number] for number in mine], limit, on_batch)
    except _Stop:
        pass
    if ranks.any_true(state.stop.asked):
        raise Interrupted
    answers = [Answer("")] * len(tests)
    for part in [done, *ranks.gather(answered)]:
        for number, found in part.items():
            for i, one in zip(batches[number], found, strict=True):
                answers[i] = one
    return answers


def share(numbers: Sequence[int], rank: int, world_size: int, *, equal: bool, alike: bool = True) -> list[int]:
    """Numbers of the batches that a rank answers: every ``world_size``-th.

    The batches come sorted by length, so that neighbours cost about the same.

    Args:
        numbers: Numbers of the batches that are left, longest prompts first.
        rank: The rank.
        world_size: Number of ranks.
        equal: All ranks must call the model equally often (split tensors): a share that is one short answers its last
            batch twice, and where the calls could differ, every rank answers all batches.
        alike: Whether all items have the same kinds of media, so that all calls are alike.
    """
    mine = list(numbers[rank::world_size])
    if equal:
        if not alike or len(numbers) < world_size:
            return list(numbers)
        if len(mine) < -(-len(numbers) // world_size):
            mine.append(mine[-1])
    return mine


def score_items(items: list[Item], scorer: str, max_items: int | None, task: str | None = None) -> TaskScore:
    """Score items and note how far the test set was cut; the task's name picks the rule of a reference scorer."""
    score = get_scorer(scorer, task=task).score(items)
    return dataclasses.replace(score, max_items=max_items)


def build_matrix(
    root: Path,
    plan: list[Step],
    config: CLConfig,
    known: dict[tuple[str, str], TaskScore] | None = None,
    learned: Collection[str] = (),
    looked_at: set[str] | None = None,
) -> AccuracyMatrix:
    """The accuracy matrix out of the score files that are there.

    Args:
        root: The output directory.
        plan: All steps.
        config: The ``cl:`` block.
        known: Scores by row and task that were read or written before; those that are read now are added.
        learned: Tasks that went into the carry, also those that another site has trained.
        looked_at: Rows whose files were looked for before; all their scores are in ``known``. Rows are added.
    """
    read = {} if known is None else known
    looked_at = set() if looked_at is None else looked_at
    stream, tasks = config.stream, list(config.stream.task_names)
    scorers = {task.name: task.scorer for task in stream.tasks}
    names = rows(plan)
    for row in [ZERO_SHOT, *names]:
        if row not in looked_at:  # after every cell this would be a look at every file of the run
            _read_row(root, row, tasks, read)
            looked_at.add(row)
    cells = {row: {t: read[row, t] for t in tasks if (row, t) in read} for row in [ZERO_SHOT, *names]}
    measured = {task: score for row in cells.values() for task, score in row.items()}
    regular = names == [f"after_{task}" for task in tasks]
    return AccuracyMatrix(
        stream=stream.name,
        method=config.method,
        tasks=tasks,
        scorers={t: measured[t].scorer if t in measured else get_scorer(scorers[t], task=t).key for t in tasks},
        n={t: measured[t].n if t in measured else 0 for t in tasks},
        zero_shot=[cells[ZERO_SHOT][t].score if t in cells[ZERO_SHOT] else None for t in tasks],
        scores=[[cells[row][t].score if t in cells[row] else None for t in tasks] for row in names],
        rows=None if regular else names,
        test_only=[task.name for task in stream.tasks if task.test and not task.train and task.name not in learned],
        independent=get_method(config.method)(config.options).capabilities.schedule == "independent",
    )


def _read_row(root: Path, row: str, tasks: list[str], known: dict[tuple[str, str], TaskScore]) -> None:
    folder = root / "predictions" / row
    if not folder.is_dir():  # most rows of a long stream, for most of its time
        return
    for task in tasks:
        if (row, task) not in known and (path := folder / f"{task}.score.json").is_file():
            known[row, task] = TaskScore.read(path)


def read_probes(root: Path, plan: list[Step]) -> Drifts:
    """The probes of a run out of the score files that are there.

    Args:
        root: The output directory.
        plan: All steps.
    """
    steps = [step for step in plan if step.kind == "probe"]
    files = {(str(s.row), str(s.task)): root / s.place / str(s.row) / f"{s.task}.score.json" for s in steps}
    return drifts_of({cell: TaskScore.read(path) for cell, path in files.items() if path.is_file()})


def write_matrix(root: Path, matrix: AccuracyMatrix, probes: Drifts | None = None) -> list[Path]:
    """Write ``matrix.json`` and ``metrics.json``; a file that has this content already stays as it is.

    Args:
        root: The output directory.
        matrix: The matrix.
        probes: What the probes have measured, if there are any.
    """
    texts = {MATRIX: matrix.to_json(), METRICS: metrics_to_json(continual_metrics(matrix), probes)}
    for name, text in texts.items():
        if not _holds(root / name, text.encode()):
            write_bytes(root / name, text.encode())
    return [root / name for name in texts]


def _holds(path: Path, content: bytes) -> bool:
    """Whether a path is a regular file with this content."""
    try:
        return outside.read_bytes(path, len(content), follow=False) == content
    except (OSError, ValueError):
        return False
