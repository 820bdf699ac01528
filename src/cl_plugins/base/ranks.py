"""What the ranks of a run say to each other: who writes, what was decided, whose answers are whose."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import RunStateError


if TYPE_CHECKING:
    from torch import Tensor


T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched() -> bool:
    """Whether a launcher started this process, also a single one: the trainer then averages gradients over the ranks."""
    return world_size() > 1 or int(os.environ.get("LOCAL_RANK", "-1")) != -1


def is_main() -> bool:
    """Whether this process writes the run's files."""
    return rank() == 0


def _group() -> bool:
    if world_size() == 1:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def barrier() -> None:
    """Wait for all ranks."""
    if _group():
        import torch.distributed as dist

        dist.barrier()


def on_main(work: Callable[[], T]) -> T:
    """Let rank 0 do something and give the result to all; an error of rank 0 is raised on all.

    Args:
        work: What rank 0 does; the result must be picklable (it travels between the run's own processes only).

    Raises:
        RunStateError: On the other ranks, if rank 0 failed; on rank 0 its own error.
    """
    if not _group():
        return work()
    import torch.distributed as dist

    result: list[Any] = [None, None]
    error: BaseException | None = None
    if is_main():
        try:
            result[0] = work()
        except (Exception, SystemExit) as problem:
            error = problem
            result[1] = str(problem) or type(problem).__name__
    dist.broadcast_object_list(result, src=0)
    if error is not None:
        raise error
    if result[1] is not None:
        raise RunStateError(f"rank 0 stopped: {result[1]}")
    return result[0]  # type: ignore[no-any-return]


def gather(value: T) -> list[T]:
    """The values of all ranks, in rank order, on every rank."""
    if not _group():
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over all ranks, in place; the same number and shapes on every rank."""
    if not _group():
        return
    import torch.distributed as dist

    for tensor in tensors:
        dist.all_reduce(tensor)


def any_true(flag: bool) -> bool:
    """Whether the flag is set on at least one rank."""
    return any(gather(flag)) if _group() else flag
