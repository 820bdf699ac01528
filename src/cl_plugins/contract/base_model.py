"""The base model in memory, as a method sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from .low_rank import LowRankUpdate


class BaseModel(Protocol):
    """The base in memory, as a method sees it."""

    @property
    def model(self) -> Module:
        """The base without adapters; tensors may have been replaced, see `reset`."""

    @property
    def can_merge(self) -> bool:
        """Whether its weights are whole fp32 tensors that updates can be added to without visible rounding."""

    def reset(self) -> None:
        """Take off adapters and stacks, and put every replaced tensor back to the value in the checkpoint."""

    def original(self, name: str) -> Tensor:
        """Parameter ``name`` as it stands in the checkpoint: a CPU tensor, read lazily, not to be written to."""

    def replace(self, name: str, value: Tensor) -> None:
        """Set parameter ``name``; keeps the device, takes the dtype of ``value``."""

    def attach(self, updates: list[LowRankUpdate]) -> None:
        """Let the base compute itself plus low-rank updates, kept beside the weights as a frozen stack."""

    def new_adapter(self, seed: int | None = None) -> Module:
        """Put a fresh adapter on the base as the host would, drawing from a generator seeded with ``seed``."""

    def prepare_full(self) -> Module:
        """Mark as trainable what the host's ``finetuning_type: full`` marks."""
