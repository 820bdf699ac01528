"""What generates answers: the interface, and the model in memory behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .answers import Answer


if TYPE_CHECKING:
    from ..contract.test_item import TestItem
    from ..host.session import Session


OnBatch = Callable[[int, list[Answer]], None]


class Backend(Protocol):
    """Answers test items greedily.

    Attributes:
        name: Its name under ``cl.eval.backend``.
        batch_size: How many items it wants to be given together.
        together: Whether all ranks must answer equally often.
    """

    name: str
    batch_size: int
    together: bool

    def settings(self) -> dict[str, Any]:
        """What shapes its texts beside model, prompts and length, as plain JSON types."""

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


@dataclass
class HostBackend:
    """The model in memory.

    Attributes:
        model: What `RunState.answering` gave.
        session: Tokenizer, template and base.
    """

    model: Any
    session: Session
    name: str = "host"

    def __post_init__(self) -> None:
        self.batch_size = int(self.session.args.training.per_device_eval_batch_size)
        self.together = self.session.base.partitioned

    def settings(self) -> dict[str, Any]:
        """Precision and device."""
        parameter = next(self.model.parameters())
        autocast = self.session.autocast_dtype()
        return {"dtype": str(parameter.dtype), "device": parameter.device.type, "autocast": str(autocast)}

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """See `Backend.answer`."""
        from ..adapters.partitioned import forward_gathers
        from ..contract.test_item import Features
        from ..host.test_sets import media_token_ids
        from .generate import generate

        session = self.session
        with forward_gathers(self.model):
            generate(
                self.model,
                session.tokenizer,
                session.collator(self.model, training=False),
                Features(items),
                [item.tokens for item in items],
                batches=batches,
                max_new_tokens=max_new_tokens,
                eos_token_ids=session.eos_token_ids(),
                media_token_ids=media_token_ids(session.template, session.tokenizer),
                thought_words=session.template.thought_words,
                autocast_dtype=session.autocast_dtype(),
                synced=self.together,
                on_batch=on_batch,
            )

    def close(self) -> None:
        """The model belongs to the run."""
