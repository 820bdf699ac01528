"""Replay in a run: what a task trains on when there is a buffer. What it leaves: `cl_plugins.replay.keeping`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..replay import mixing
from ..replay.memory import Memory
from ..replay.store import Buffer
from .state import RunState


if TYPE_CHECKING:
    from ..host.sample_counts import SampleCounts
    from ..host.task_args import HostArgs
    from ..host.training_rows import TrainingRows
    from ..training.terms import BatchTerms


@dataclass(frozen=True)
class TrainingData:
    """What one task trains on.

    Attributes:
        module: The host's data set module, memory samples mixed in where the recipe says so.
        own: The task's own tokenised samples.
        memory: The buffer; None without replay.
        rows: The records behind the own samples; None without replay.
        term: A term of every micro-batch (``mixing: separate``).
        counts: Records that the host read and dropped, and samples that it cut, for the journal.
    """

    module: dict[str, Any]
    own: Any
    memory: Memory | None = None
    rows: TrainingRows | None = None
    term: BatchTerms | None = None
    counts: dict[str, int] = field(default_factory=dict)


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
    counted: list[SampleCounts] = []
    if not replay.enabled:
        from ..host.data import load_training_set

        module = load_training_set(task, args, session.template, session.tokenizer_module, counted)
        return TrainingData(module, module["train_dataset"], counts=_details(counted))
    from ..host import training_rows

    host = args, session.template, session.tokenizer_module
    module, rows = training_rows.load_with_rows(task, *host, counted)
    own = module["train_dataset"]
    buffer = Buffer.open(state.carry)
    if buffer is None or not buffer.samples:
        return TrainingData(module, own, Memory(buffer, None, replay.batch), rows, counts=_details(counted))
    past = training_rows.load_buffer(task, buffer.path, buffer.datasets, *host)
    if len(past) != len(buffer.samples):
        what = f"holds {len(buffer.samples)} samples, of which {len(past)} can be used with this task's keys."
        raise DataError(Problem(str(buffer.path), what, "Give the tasks the same keys for their data."))
    memory = Memory(buffer, session.task_data(past), replay.batch)
    by_itself = state.method.capabilities.needs_replay
    again = mixing.behind(replay, by_itself, len(past), len(own), state.seed(task))
    if again:
        module = {**module, "train_dataset": training_rows.joined(own, past, again)}
    return TrainingData(module, own, memory, rows, mixing.term(replay, by_itself, memory), _details(counted))


def _details(counted: Sequence[SampleCounts]) -> dict[str, int]:
    return counted[0].details() if counted else {}
