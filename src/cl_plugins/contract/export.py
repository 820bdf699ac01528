"""What a trained model is, for ``final/`` and exports: said by the method, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias


if TYPE_CHECKING:
    from .carry import TaskUpdate


@dataclass(frozen=True)
class LowRankSum:
    """The base plus low-rank updates.

    Attributes:
        updates: The updates whose sum on the base is the model, in order.
        answers: Whether the sum answers questions by itself; an update of one task that was trained on top of others does
            not.
    """

    updates: tuple[TaskUpdate, ...]
    answers: bool = True


@dataclass(frozen=True)
class Weights:
    """A plain model: `Method.restore` gives it, with its weights changed in place."""


@dataclass(frozen=True)
class Routed:
    """A model that chooses its parts by itself, from the carry; Transformers alone cannot load it."""


Export: TypeAlias = LowRankSum | Weights | Routed
