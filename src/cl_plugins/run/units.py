"""How much work each step of a run is, for the display's estimate: optimizer steps and test items."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..config import CLConfig
from .plan import JOINT, Step
from .train import steps_of


if TYPE_CHECKING:
    from ..contract.host import Host
    from ..contract.session import TaskArgs
    from .state import RunState

#: Keys of the host that decide how many optimizer steps a training has, with their types.
_LENGTH = {
    "max_steps": int,
    "num_train_epochs": float,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
}


@dataclasses.dataclass
class _Defaults:
    """The defaults of `transformers.TrainingArguments` for these keys, on one device."""

    max_steps: int = -1
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    world_size: int = 1


def units(state: RunState, todo: Sequence[Step]) -> dict[str, tuple[str, int | None]]:
    """Step key -> kind and units of every step to be done; None for a training whose length is not known yet.

    Args:
        state: The run, with its test sets read.
        todo: The steps.
    """
    found: dict[str, tuple[str, int | None]] = {}
    for step in todo:
        probe = state.config.probe(str(step.task)) if step.kind == "probe" else None
        if probe is not None and probe.harness:
            found[step.key] = ("harness", None)  # which decides the number of items
        elif step.tests and step.task:
            count = len(state.tests(state.config.tested(step.task)))
            found[step.key] = ("evaluate", max(1, count // ranks.world_size()))
        elif step.kind == "train" and step.phase:
            found[step.key] = ("train", None)
        elif step.kind == "train":
            steps = training_steps(
                state.host,
                state.run_args,
                state.host_keys,
                state.config,
                str(step.task),
                by_itself=state.method.capabilities.needs_replay,
            )
            found[step.key] = ("train", steps)
        else:
            found[step.key] = (step.kind, 1)
    return found


def training_steps(
    host: Host,
    args: TaskArgs | None,
    host_keys: Mapping[str, Any],
    config: CLConfig,
    task: str,
    *,
    by_itself: bool = False,
) -> int | None:
    """Optimizer steps of a task's training, from the sizes of its data files, or of the stream where these do not tell.

    Args:
        host: The host.
        args: The host's arguments of any task of the run; None for one device and the defaults, without a run.
        host_keys: The recipe's keys of the host.
        config: The ``cl:`` block.
        task: The task, or `JOINT`.
        by_itself: Whether the method brings in memory samples itself, in addition to the training set.

    Returns:
        The number, or None if it depends on what only loading the data will tell.
    """
    overrides = {} if task == JOINT else config.overrides_for(task)
    keys = {**host_keys, **overrides}
    training: Any = _Defaults() if args is None else copy.copy(args.training)
    defaults = {field.name: field.default for field in dataclasses.fields(training)}
    for key, kind in _LENGTH.items():
        setattr(training, key, kind(keys.get(key, defaults.get(key))))
    if training.max_steps > 0:
        return steps_of(training, 0)
    if keys.get("packing") or keys.get("neat_packing") or keys.get("streaming"):
        return None
    samples = _samples(host, keys, config, task, by_itself)
    return steps_of(training, samples) if samples is not None else None


def rows(
    host: Host, keys: Mapping[str, Any], names: Sequence[str], limit: int | None, stated: int | None
) -> int | None:
    """Rows of the data sets of a task.

    Args:
        host: The host.
        keys: The task's keys.
        names: The data sets.
        limit: At most so many of each; None for all.
        stated: The number that the stream states (``train_size``, ``test_size``).

    Returns:
        The number from the files; where they are not there or do not tell, what the stream states; None if neither says.
    """
    counts = [host.data_set(name, keys, limit).samples() for name in names]
    known = [count for count in counts if count is not None]
    if len(known) == len(counts):
        return sum(known)
    return stated if stated is None or limit is None else min(stated, limit * len(names))


def _samples(host: Host, keys: Mapping[str, Any], config: CLConfig, task: str, by_itself: bool) -> int | None:
    """Training samples of a task, kept ones of earlier tasks included."""
    limit = keys.get("max_samples")
    limit = limit if isinstance(limit, int) and limit > 0 else None
    total = 0
    for each in config.stream.tasks if task == JOINT else (config.stream.task(task),):
        count = rows(host, keys, each.train, limit, each.train_size)
        if count is None:
            return None
        total += count
    replay = config.replay
    if task == JOINT or by_itself or not replay.enabled or replay.mixing == "separate":
        return total
    earlier = config.stream.trained_names.index(task)
    if not earlier:
        return total
    if replay.mixing == "ratio":
        return round(total / (1 - replay.ratio)) if replay.ratio < 1 else None
    kept = replay.capacity_total if replay.capacity_total is not None else replay.capacity_per_task * earlier
    return total + kept
