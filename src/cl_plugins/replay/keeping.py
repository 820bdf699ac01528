"""What a trained task leaves for the buffer, and the buffer of the next carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..contract.carry import Carry, CarryWriter, TaskUpdate, read_tensors
from . import capacity, scoring, selection, store
from .memory import Chosen
from .store import CANDIDATES, TENSORS, Buffer, Sample


if TYPE_CHECKING:
    from torch.nn import Module

    from ..config import ReplayConfig
    from ..contract.session import Rows
    from ..contract.task import TaskContext


@dataclass(frozen=True)
class Pick:
    """One sample that was selected.

    Attributes:
        index: Its number among the task's own samples.
        key: Its random number.
        score: Its loss, for the selections by loss.
    """

    index: int
    key: float
    score: float | None = None


def choose(
    config: ReplayConfig,
    context: TaskContext,
    model: Module | None,
    rows: Rows,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
) -> list[Pick]:
    """Select the samples that a task leaves, by the model it has just trained; the same on every process.

    Fills in `Memory.chosen`.

    Args:
        config: The settings under ``cl.replay``.
        context: The task, with its memory.
        model: The trained model; None is enough for random selections.
        rows: The task's samples.
        gather: Gives the values of all processes to all.
    """
    memory, task = context.memory, context.task.name
    if memory is None:
        return []
    keys = [capacity.sample_key(context.seed, task, rows.row(i)) for i in range(len(rows))]
    past: dict[str, list[float]] = {}
    for sample in memory.samples:
        if sample.task != task:
            past.setdefault(sample.task, []).append(sample.key)
    if config.policy == "reservoir":
        count = len(capacity.surviving(config, {**past, task: keys})[task])
    else:
        count = capacity.share_of_new(config, {name: len(values) for name, values in past.items()}, len(rows))
    picks = _select(config, context, model, rows, keys, count, gather)
    memory.chosen = tuple(Chosen(_uid(task, rows.row(pick.index)), pick.index) for pick in picks)
    return picks


def _select(
    config: ReplayConfig,
    context: TaskContext,
    model: Module | None,
    rows: Rows,
    keys: list[float],
    count: int,
    gather: Callable[[Any], list[Any]],
) -> list[Pick]:
    how = config.selection
    if not count:
        return []
    if how == "random":
        return [Pick(i, keys[i]) for i in selection.random_order(keys, count)]
    if how == "class_balanced":
        labels = rows.answers(range(len(rows)))
        return [Pick(i, keys[i]) for i in selection.class_balanced(labels, keys, count)]
    if context.data is None or model is None:
        fix = "Use `selection: random`, or turn `streaming` off."
        raise DataError(Problem("cl.replay.selection", "needs samples with random access.", fix))
    limit = max(count, config.candidates or len(keys))
    looked_at = selection.random_order(keys, limit)
    features = how in selection.FEATURES
    values = scoring.scores(
        model,
        context.data,
        looked_at,
        features=features,
        rank=context.rank,
        world_size=context.world_size,
        gather=gather,
    )
    if features:
        best = (selection.herding if how == "herding" else selection.k_center)(values, count)
        return [Pick(looked_at[i], keys[looked_at[i]]) for i in best]
    best = selection.by_loss(values, count, highest=how == "highest_loss")
    return [Pick(looked_at[i], keys[looked_at[i]], values[i]) for i in best]


def _uid(task: str, row: int) -> str:
    return f"{task}:{row}"


def write_candidates(folder: Path, config: ReplayConfig, context: TaskContext, rows: Rows, picks: list[Pick]) -> Path:
    """Write the selected records next to the update of their task, for `filling`.

    Args:
        folder: The task's directory.
        config: The settings under ``cl.replay``.
        context: The task.
        rows: The task's samples.
        picks: From `choose`.

    Returns:
        The file.
    """
    entries = []
    for pick in picks:
        identity, dataset = rows.origin(pick.index)
        row = rows.row(pick.index)
        sample = Sample(
            uid=_uid(context.task.name, row),
            id=identity,
            task=context.task.name,
            dataset=dataset,
            row=row,
            key=pick.key,
            selection=config.selection,
            score=pick.score,
            licence=context.task.licence,
        )
        entries.append((sample, rows.record(pick.index)))
    store.write_candidates(folder / CANDIDATES, entries)
    return folder / CANDIDATES


def filling(
    config: ReplayConfig, update: TaskUpdate, previous: Carry | None, about: Mapping[str, Any] | None = None
) -> Callable[[CarryWriter], None] | None:
    """What writes the buffer of the next carry, from files alone; None without replay.

    Args:
        config: The settings under ``cl.replay``.
        update: What the task left.
        previous: The carry so far.
        about: More for the manifest's settings.
    """
    if not config.enabled:
        return None
    folder = update.tensors.parent

    def write(writer: CarryWriter) -> None:
        buffer = Buffer.open(previous)
        stored = store.now()
        entries = [entry for entry in (buffer.entries() if buffer else []) if entry[0].task != update.task]
        new = store.read_candidates(folder / CANDIDATES)
        entries += [(Sample(**{**vars(sample), "stored": stored}), record) for sample, record in new]
        by_task: dict[str, list[tuple[Sample, dict[str, Any]]]] = {}
        for entry in entries:
            by_task.setdefault(entry[0].task, []).append(entry)
        kept = capacity.surviving(config, {name: [s.key for s, _ in own] for name, own in by_task.items()})
        alive = [own[i] for name, own in by_task.items() for i in kept[name]]
        tensors = {name: buffer.tensors(name) for name in store.tensor_names(buffer)} if buffer else {}
        for path in sorted(folder.glob(f"{TENSORS}*.safetensors")):
            tensors[path.stem] = {**tensors.get(path.stem, {}), **read_tensors(path)}
        settings = {
            "capacity_per_task": config.capacity_per_task,
            "capacity_total": config.capacity_total,
            "policy": config.policy,
            "selection": config.selection,
            **(about or {}),
        }
        media = buffer.path if buffer else None
        store.write(writer, alive, settings, media_from=media, tensors=tensors)

    return write


def remove_candidates(root: Path) -> None:
    """Delete what a killed process has left of training samples outside the buffer, where nothing resumes from it.

    Args:
        root: The directory of a `ContinualLearner`.
    """
    for folder in root.glob("tasks/*"):
        for path in candidate_files(folder):
            path.unlink(missing_ok=True)


def candidate_files(folder: Path) -> list[Path]:
    """Files in a task's folder that hold training samples; the buffer has what it needs of them."""
    return [path for path in (folder / CANDIDATES, *sorted(folder.glob(f"{TENSORS}*.safetensors"))) if path.is_file()]
