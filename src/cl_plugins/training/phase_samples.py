"""The training set of a phase that trains on kept samples of all tasks, see `cl_plugins.contract.phase.Phase`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """One sample.

    Attributes:
        dataset: Anything with ``[i]``, tokenised.
        index: Its number there.
        task: The task that it comes from.
    """

    dataset: Any
    index: int
    task: str


class PhaseSamples:
    """Kept samples, each as the phase trains on it: ``len`` and ``[i]``.

    Args:
        parts: The samples, in order.
        change: Gets task and sample, returns the sample that is trained on; see `Method.phase_sample`.
    """

    def __init__(self, parts: Sequence[Part], change: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._parts, self._change = tuple(parts), change

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample."""
        part = self._parts[index]
        return dict(self._change(part.task, part.dataset[part.index]))
