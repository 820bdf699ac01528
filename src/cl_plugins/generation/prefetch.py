"""Makes the next batch while the model answers the last one: pictures are opened and resized beside the device's work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar


_In = TypeVar("_In")
_Out = TypeVar("_Out")


@contextmanager
def ahead(make: Callable[[_In], _Out], given: Sequence[_In]) -> Iterator[Iterator[_Out]]:
    """The value of ``make`` for each of ``given``, in order; one more than was asked for is in the making, in a thread.

    Args:
        make: Called in the thread, for one value at a time.
        given: What it is called with.

    Returns:
        An iterator over the values. An error of ``make`` is raised where its value is asked for. At the end of the context the
        thread has ended, and what was not asked for is not made.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as pool:
        waiting: list[Future[_Out]] = [pool.submit(make, one) for one in given[:1]]

        def values() -> Iterator[_Out]:
            for following in range(1, len(given) + 1):
                value = waiting.pop().result()
                if following < len(given):
                    waiting.append(pool.submit(make, given[following]))
                yield value

        try:
            yield values()
        finally:
            for future in waiting:
                future.cancel()
