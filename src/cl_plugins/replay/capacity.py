"""How many samples of which task a buffer holds. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..config import ReplayConfig


def sample_key(seed: int, task: str, row: int) -> float:
    """A number in [0, 1) drawn for one sample, the same on every machine and for any number of processes.

    Sorting by it is a uniformly random order; the M smallest of a stream are a uniform sample of M, which is what
    reservoir sampling gives, without depending on the order of the stream.

    Args:
        seed: Seed of the task.
        task: Name of the task.
        row: Row in the task's training set.
    """
    digest = hashlib.blake2b(f"{seed}/{task}/{row}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def balanced(capacity: int, available: Sequence[int]) -> list[int]:
    """Share a capacity so that the smallest share is as large as possible.

    Args:
        capacity: Number of samples in all.
        available: Number of samples of each task.

    Returns:
        A share per task, at most what is available. Shares of tasks that have more differ by at most one, the earlier
        tasks having the larger ones; nothing is left over while samples are.
    """
    shares = [0] * len(available)
    left = capacity
    while left > 0:
        hungry = [i for i, share in enumerate(shares) if share < available[i]]
        if not hungry:
            break
        portion = min(left // len(hungry), min(available[i] - shares[i] for i in hungry))
        if portion == 0:
            for i in hungry[:left]:
                shares[i] += 1
            break
        for i in hungry:
            shares[i] += portion
        left -= portion * len(hungry)
    return shares


def smallest(capacity: int, keys: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
    """The samples with the smallest keys over all tasks: bottom-k sampling, equal in law to a reservoir.

    Args:
        capacity: Number of samples in all.
        keys: Task -> keys of its samples.

    Returns:
        Task -> positions that stay, in their order.
    """
    ranked = sorted((key, number, i) for number, values in enumerate(keys.values()) for i, key in enumerate(values))
    names = list(keys)
    kept: dict[str, list[int]] = {name: [] for name in names}
    for _, number, i in ranked[:capacity]:
        kept[names[number]].append(i)
    return {name: sorted(positions) for name, positions in kept.items()}


def surviving(config: ReplayConfig, keys: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
    """Which samples of each task stay in the buffer.

    Args:
        config: The settings under ``cl.replay``.
        keys: Task -> keys of its samples, best sample first, tasks in order.

    Returns:
        Task -> positions that stay.
    """
    if config.policy == "reservoir":
        return smallest(config.capacity_total or 0, keys)
    if config.capacity_total is None:
        return {name: list(range(min(len(values), config.capacity_per_task))) for name, values in keys.items()}
    shares = balanced(config.capacity_total, [len(values) for values in keys.values()])
    return {name: list(range(share)) for name, share in zip(keys, shares, strict=True)}


def share_of_new(config: ReplayConfig, past: Mapping[str, int], new: int) -> int:
    """How many samples of a task that has just been trained will be kept; not for the reservoir, which asks the keys.

    Args:
        config: The settings under ``cl.replay``.
        past: Earlier task -> samples in the buffer.
        new: Samples of the new task.
    """
    if config.capacity_total is None:
        return min(new, config.capacity_per_task)
    return balanced(config.capacity_total, [*past.values(), new])[-1]
