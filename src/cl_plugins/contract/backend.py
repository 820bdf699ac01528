"""What answers test items: the interface that a host's own answering, an engine or a third party's code implements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol


if TYPE_CHECKING:
    from .test_item import TestItem


class Answer(NamedTuple):
    """One answer.

    Attributes:
        text: The text, special tokens removed.
        cut: Whether ``max_new_tokens`` ended it, and not a token of the model.
        route: What a model that chooses per row has chosen for it; None for all others.
    """

    text: str
    cut: bool = False
    route: str | None = None


OnBatch = Callable[[int, list[Answer]], None]


class Backend(Protocol):
    """Answers test items deterministically.

    Attributes:
        name: Its name under ``cl.eval.backend``.
        batch_size: How many items it wants to be given together.
        together: Whether all ranks must answer equally often.
    """

    name: str
    batch_size: int
    together: bool

    def settings(self) -> dict[str, Any]:
        """What shapes its texts besides model, prompts and length, as plain JSON types."""

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """Answer some batches.

        Args:
            items: The whole test set.
            batches: Numbers of the items that are answered together.
            max_new_tokens: Longest answer in tokens.
            on_batch: Given the position of each batch and its answers, as soon as they are there; may raise to stop.
        """

    def close(self) -> None:
        """Give back memory and files. Called before anything else is done with the model."""
