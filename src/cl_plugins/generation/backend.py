"""The model in memory as a backend: greedy generation of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..adapters.partitioned import forward_gathers
from ..contract.test_item import Features
from .generate import generate


if TYPE_CHECKING:
    import torch

    from ..contract.backend import OnBatch
    from ..contract.test_item import TestItem


@dataclass
class ModelBackend:
    """Answers with a model in memory, see `cl_plugins.contract.backend.Backend`.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        collator: Makes a batch out of features.
        batch_size: How many items are answered together.
        together: Whether all ranks must answer equally often (partitioned weights).
        eos_token_ids: Tokens that end an answer.
        media_token_ids: Tokens that stand for pictures, videos or sounds.
        thought_words: What the template writes before and behind a thought.
        autocast_dtype: Compute in this dtype where the model mixes precisions.
        name: Its name under ``cl.eval.backend``.
    """

    model: Any
    tokenizer: Any
    collator: Callable[[list[dict[str, Any]]], Any]
    batch_size: int
    together: bool
    eos_token_ids: Sequence[int]
    media_token_ids: Sequence[int] = ()
    autocast_dtype: torch.dtype | None = None
    thought_words: tuple[str, str] | None = None
    name: str = "host"

    def settings(self) -> dict[str, Any]:
        """Precision, device and the tokens that end an answer."""
        parameter = next(self.model.parameters())
        return {
            "dtype": str(parameter.dtype),
            "device": parameter.device.type,
            "autocast": str(self.autocast_dtype),
            "eos": list(self.eos_token_ids),
        }

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """See `Backend.answer`."""
        with forward_gathers(self.model):
            generate(
                self.model,
                self.tokenizer,
                self.collator,
                Features(items),
                [item.tokens for item in items],
                batches=batches,
                max_new_tokens=max_new_tokens,
                eos_token_ids=self.eos_token_ids,
                media_token_ids=self.media_token_ids,
                thought_words=self.thought_words,
                autocast_dtype=self.autocast_dtype,
                synced=self.together,
                on_batch=on_batch,
            )

    def close(self) -> None:
        """The model belongs to the run."""
