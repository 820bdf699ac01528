"""Replay in a run: what a task trains on, what it leaves for the buffer, and the buffer of the next carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.carry import Carry, CarryWriter, TaskUpdate, read_tensors
from ..errors import DataError, Problem
from ..replay import capacity, scoring, selection, store
from ..replay.memory import Chosen, Memory
from ..replay.mixing import SeparateMemory, repeated
from ..replay.store import CANDIDATES, TENSORS, Buffer, Sample
from . import ranks
from .state import RunState


if TYPE_CHECKING:
    from torch.nn import Module

    from ..host.task_args import HostArgs
    from ..host.training_rows import TrainingRows
    from ..methods import TaskContext
    from ..penalised import BatchTerms


@dataclass(frozen=True)
class TrainingData:
    """What one task trains on.

    Attributes:
        module: The host's data set module, memory samples mixed in where the recipe says so.
        own: The task's own tokenised samples.
        memory: The buffer; None without replay.
        rows: The records behind the own samples; None without replay.
        term: A term of every micro-batch (``mixing: separate``).
    """

    module: dict[str, Any]
    own: Any
    memory: Memory | None = None
    rows: TrainingRows | None = None
    term: BatchTerms | None = None


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


def load(state: RunState, task: str, args: HostArgs) -> TrainingData:
    """Load a task's training set and, with replay, the buffer.

    Args:
        state: The run.
        task: Name of the task.
        args: The host's arguments of the task.

    Raises:
        DataError: If a data set is empty or broken, or the buffer no longer gives the samples that it holds.
    """
    session, replay = state.session, state.config.replay
    if not replay.enabled:
        from ..host.data import load_training_set

        module = load_training_set(task, args, session.template, session.tokenizer_module)
        return TrainingData(module, module["train_dataset"])
    from ..host import training_rows

    host = args, session.template, session.tokenizer_module
    module, rows = training_rows.load_with_rows(task, *host)
    own = module["train_dataset"]
    buffer = Buffer.open(state.carry)
    if buffer is None or not buffer.samples:
        return TrainingData(module, own, Memory(buffer, None, replay.batch), rows)
    past = training_rows.load_buffer(task, buffer.path, buffer.datasets, *host)
    if len(past) != len(buffer.samples):
        what = f"holds {len(buffer.samples)} samples, of which {len(past)} can be used with this task's keys."
        raise DataError(Problem(str(buffer.path), what, "Give the tasks the same keys for their data."))
    memory = Memory(buffer, session.task_data(past), replay.batch)
    term = None
    if not state.method.capabilities.needs_replay:
        if replay.mixing == "concatenate":
            module = {**module, "train_dataset": training_rows.joined(own, past, range(len(past)))}
        elif replay.mixing == "ratio":
            again = repeated(len(past), len(own), replay.ratio, state.seed(task))
            module = {**module, "train_dataset": training_rows.joined(own, past, again)}
        else:
            term = SeparateMemory(memory, replay.weight)
    return TrainingData(module, own, memory, rows, term)


def choose(state: RunState, context: TaskContext, model: Module, data: TrainingData) -> list[Pick]:
    """Select the samples that a task leaves, by the model it has just trained; the same on every process.

    Fills in `Memory.chosen`.

    Args:
        state: The run.
        context: The task.
        model: The trained model.
        data: From `load`.
    """
    if data.memory is None or data.rows is None:
        return []
    rows, config, task = data.rows, state.config.replay, context.task.name
    keys = [capacity.sample_key(context.seed, task, rows.row(i)) for i in range(len(rows))]
    past: dict[str, list[float]] = {}
    for sample in data.memory.samples:
        if sample.task != task:
            past.setdefault(sample.task, []).append(sample.key)
    if config.policy == "reservoir":
        count = len(capacity.surviving(config, {**past, task: keys})[task])
    else:
        count = capacity.share_of_new(config, {name: len(values) for name, values in past.items()}, len(rows))
    picks = _select(state, context, model, rows, keys, count)
    data.memory.chosen = tuple(Chosen(_uid(task, rows.row(pick.index)), pick.index) for pick in picks)
    return picks


def _select(
    state: RunState, context: TaskContext, model: Module, rows: TrainingRows, keys: list[float], count: int
) -> list[Pick]:
    how = state.config.replay.selection
    if not count:
        return []
    if how == "random":
        return [Pick(i, keys[i]) for i in selection.random_order(keys, count)]
    if how == "class_balanced":
        labels = rows.answers(range(len(rows)))
        return [Pick(i, keys[i]) for i in selection.class_balanced(labels, keys, count)]
    if context.data is None:
        fix = "Use `selection: random`, or turn `streaming` off."
        raise DataError(Problem("cl.replay.selection", "needs samples that can be read at random.", fix))
    limit = max(count, state.config.replay.candidates or len(keys))
    looked_at = selection.random_order(keys, limit)
    features = how in selection.FEATURES
    values = scoring.scores(
        model,
        context.data,
        looked_at,
        features=features,
        rank=context.rank,
        world_size=context.world_size,
        gather=ranks.gather,
    )
    if features:
        best = (selection.herding if how == "herding" else selection.k_center)(values, count)
        return [Pick(looked_at[i], keys[looked_at[i]]) for i in best]
    best = selection.by_loss(values, count, highest=how == "highest_loss")
    return [Pick(looked_at[i], keys[looked_at[i]], values[i]) for i in best]


def _uid(task: str, row: int) -> str:
    return f"{task}:{row}"


def write_candidates(state: RunState, path: Path, task: str, data: TrainingData, picks: list[Pick]) -> None:
    """Write the selected records beside the update of their task, for `filling`.

    Args:
        state: The run.
        path: The file.
        task: Name of the task.
        data: From `load`.
        picks: From `choose`.
    """
    if data.rows is None:
        return
    entries = []
    for pick in picks:
        identity, dataset = data.rows.origin(pick.index)
        row = data.rows.row(pick.index)
        sample = Sample(
            uid=_uid(task, row),
            id=identity,
            task=task,
            dataset=dataset,
            row=row,
            key=pick.key,
            selection=state.config.replay.selection,
            score=pick.score,
            licence=state.config.stream.task(task).licence,
        )
        entries.append((sample, data.rows.record(pick.index)))
    store.write_candidates(path, entries)


def filling(state: RunState, update: TaskUpdate, previous: Carry | None) -> Callable[[CarryWriter], None] | None:
    """What writes the buffer of the next carry, from files alone; None without replay.

    Args:
        state: The run.
        update: What the task left.
        previous: The carry so far.
    """
    config = state.config.replay
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
        }
        media = buffer.path if buffer else None
        store.write(writer, alive, settings, media_from=media, tensors=tensors)

    return write


def candidate_files(folder: Path) -> list[Path]:
    """Files in a task's folder that hold training samples; the buffer has what it needs of them."""
    return [path for path in (folder / CANDIDATES, *sorted(folder.glob(f"{TENSORS}*.safetensors"))) if path.is_file()]
