"""Replay in a run: what a task trains on when there is a buffer. What it leaves: `cl_plugins.replay.keeping`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.logs import logger
from ..replay import mixing, store
from ..replay.encoding import stored_encoding
from ..replay.memory import Memory
from ..replay.store import Buffer
from ..training.phase_samples import Part, PhaseSamples
from .state import RunState


if TYPE_CHECKING:
    from ..contract.session import Rows, TaskArgs
    from ..contract.task import TaskContext
    from ..training.terms import BatchTerms


@dataclass(frozen=True)
class TrainingData:
    """What one task trains on.

    Attributes:
        module: The host's data set module, with memory samples mixed in if the recipe sets this.
        own: The task's own tokenised samples.
        memory: The buffer; None without replay.
        rows: The records behind the own samples; None without replay.
        term: A term of every micro-batch (``mixing: separate``).
        counts: Records that the host read and dropped, and samples that it cut, for the journal.
        past: The tokenised samples of the buffer, in its order; None if it holds none.
    """

    module: dict[str, Any]
    own: Any
    memory: Memory | None = None
    rows: Rows | None = None
    term: BatchTerms | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    past: Any = None


def load(state: RunState, task: str, args: TaskArgs) -> TrainingData:
    """Load a task's training set and, with replay, the buffer.

    Args:
        state: The run.
        task: Name of the task.
        args: The host's arguments of the task.

    Raises:
        DataError: If a data set is empty or broken, or the buffer no longer gives the samples that it holds.
    """
    session, replay = state.session, state.config.replay
    module, rows = state.training_set(task, args)
    own = module["train_dataset"]
    counts = session.sample_counts.get(task, {})
    if not replay.enabled:
        return TrainingData(module, own, counts=counts)
    buffer = Buffer.open(state.carry)
    if buffer is None or not buffer.samples:
        return TrainingData(module, own, Memory(buffer, None, replay.batch), rows, counts=counts)
    past = session.stored_samples(task, args, buffer, keys=_own_keys(state, buffer), like=own)
    if len(past) != len(buffer.samples):
        what = f"holds {len(buffer.samples)} samples, but only {len(past)} can be used."
        fix = "Set the data keys of their tasks as in their training."
        raise DataError(Problem(str(buffer.path), what, fix))
    memory = Memory(buffer, session.task_data(past, args), replay.batch)
    by_itself = state.method.capabilities.needs_replay
    again = mixing.behind(replay, by_itself, len(past), len(own), state.seed(task))
    if again:
        module = {**module, "train_dataset": session.joined(own, past, again)}
    return TrainingData(module, own, memory, rows, mixing.term(replay, by_itself, memory), counts, past)


def kept(state: RunState, task: str, data: TrainingData, context: TaskContext) -> PhaseSamples:
    """What a phase with ``samples: kept`` trains on: the buffer's samples, then those that this task leaves for it.

    Args:
        state: The run.
        task: The task, whose own training has ended.
        data: What it trained on.
        context: Task and phase.
    """
    chosen = store.read_candidates(state.directory(task) / store.CANDIDATES)
    rows = data.rows
    numbers = {rows.row(i): i for i in range(len(rows))} if rows is not None else {}
    past = data.memory.samples if data.memory is not None else ()
    parts = [Part(data.past, i, sample.task) for i, sample in enumerate(past)]
    parts += [Part(data.own, numbers[sample.row], task) for sample, _ in chosen]
    return PhaseSamples(parts, partial(state.method.phase_sample, context))


def _own_keys(state: RunState, buffer: Buffer) -> dict[str, dict[str, Any]]:
    """The keys that made the samples of earlier tasks: those that the buffer names, else the recipe's for tasks that it knows."""
    names, found = state.host.sample_keys, {}
    stored = stored_encoding(buffer, names)
    for task in buffer.tasks:
        known = task in state.config.stream.task_names
        keys = state.keys_of(task) if known else state.host_keys
        if known or task in stored:
            found[task] = {key: keys.get(key) for key in names} | stored.get(task, {})
        asked = state.config.overrides_for(task) if known else {}
        other = [f"{key}: {asked[key]!r}" for key in sorted(names & {*asked}) if asked[key] != found[task][key]]
        if other and (told := f"{task} {other}") not in state.told:
            state.told.add(told)
            kept = ", ".join(f"{key}: {value!r}" for key, value in stored[task].items())
            logger.warning(
                "the recipe gives task '%s' %s; its kept samples are encoded as in its training (%s)",
                *(task, ", ".join(other), kept),
            )
    return found
