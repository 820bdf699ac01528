"""Where a base's tower and language model are, and the logits of single positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


TOWERS = ("vision_tower", "vision_model", "visual", "vision_encoder")


def find_tower(model: Any) -> tuple[str, Module] | None:
    """Name and module of the tower that sees pictures; None for a model of texts."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in TOWERS:
            return name, module
    return None


def find_decoder(model: Any) -> Any:
    """The language model without its output layer."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else None
    if found is None or found is model:
        found = getattr(model, "base_model", None)
    if found is None or found is model:
        what = f"{type(model).__name__} does not define which of its modules is the language model."
        raise CompatibilityError(Problem("the base model", what, "Use a Transformers model with `get_decoder`."))
    return found


def logits_at(model: Any, inputs: Mapping[str, Any], positions: Tensor) -> Tensor:
    """Logits of one position of each row, without those of the others.

    Args:
        model: A causal language model of Transformers.
        inputs: Its inputs, padded on the right.
        positions: (rows,), int64.

    Returns:
        (rows, vocabulary).
    """
    import torch

    wanted, place = torch.unique(positions, return_inverse=True)
    logits = model(**inputs, use_cache=False, logits_to_keep=wanted).logits
    return logits[torch.arange(len(positions), device=logits.device), place.to(logits.device)]
