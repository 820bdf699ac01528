"""Where a LoRA has been put: one in the vision tower is rarely meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapters.places import find_tower
from ..base.logs import logger


if TYPE_CHECKING:
    from torch.nn import Module


def tower_share(model: Module) -> tuple[str, int, int] | None:
    """How much of what is trained lies in the tower that sees pictures.

    Args:
        model: What is about to be trained.

    Returns:
        Name of the tower, trained parameters of LoRAs inside it, and of all LoRAs; None if the model has no tower.
    """
    tower = find_tower(model)
    if tower is None:
        return None
    name = tower[0].rpartition(".")[2]
    trained = [(n, p.numel()) for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
    inside = sum(size for n, size in trained if n.startswith(f"{tower[0]}."))
    return name, inside, sum(size for _, size in trained)


def warn_of_tower(model: Module) -> None:
    """Say in the log if a LoRA lies in the vision tower, how much of it, and how to leave it out."""
    found = tower_share(model)
    if found is None or not found[1]:
        return
    name, inside, total = found
    logger.warning(
        "%d of %d trained LoRA parameters (%.0f %%) are in the vision tower '%s'; to train the language model alone, give "
        "LoraConfig exclude_modules=r'.*%s.*', or name the language model's layers in target_modules",
        *(inside, total, 100 * inside / total, name, name),
    )
