"""Which layers are weighted, and how the experts of the others are fused."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...adapters import bank
from ...adapters.places import find_decoder
from ...base.errors import CompatibilityError, Problem
from ...selectors.weighted import separate


if TYPE_CHECKING:
    from ...contract.base_model import BaseModel
    from ...selectors.router import Learned


def last_layers(base: BaseModel, count: int) -> Callable[[str], bool]:
    """Whether a module lies in one of the last layers of the language model.

    Args:
        base: The base.
        count: Number of layers.

    Returns:
        A function of the module's name.

    Raises:
        CompatibilityError: If the language model has no list of layers.
    """
    decoder = find_decoder(base.model)
    own = next((name for name, module in base.model.named_modules() if module is decoder), "")
    layers = getattr(decoder, "layers", None)
    if layers is None:
        what = f"{type(decoder).__name__} has no `layers`, so that its last one is not known."
        raise CompatibilityError(Problem("the base model", what, "Use a decoder of Transformers, or another method."))
    pattern = re.compile(rf"{re.escape(f'{own}.' if own else '')}layers\.(\d+)\.")
    first = len(layers) - count

    def among_them(name: str) -> bool:
        found = pattern.match(name)
        return found is not None and int(found[1]) >= first

    return among_them


def sum_of_products(tasks: Sequence[Learned], layer: str, epsilon: float) -> bank.Experts:
    """``sum_i epsilon s_i B_i A_i``: the paper's fusion.

    Args:
        tasks: Tasks that have an update of the layer.
        layer: The layer.
        epsilon: Factor on every expert.
    """
    experts = separate(tasks, layer)
    scaled = [bank.Expert(e.b, e.trunk, e.scaling * epsilon) for e in experts.experts]
    return bank.Experts(experts.trunks, scaled)


def product_of_sums(tasks: Sequence[Learned], layer: str, epsilon: float) -> bank.Experts:
    """``epsilon s (sum_i B_i) (sum_i A_i)``: the authors' code, with the cross terms ``B_i A_j``.

    Args:
        tasks: Tasks that have an update of the layer.
        layer: The layer.
        epsilon: Factor on the product.

    Raises:
        CompatibilityError: If ranks or scalings differ from task to task.
    """
    updates = [learned.update for learned in tasks]
    ranks = {(update.a[layer].shape[0], update.scaling) for update in updates}
    if len(ranks) > 1:
        what = "adds up the factors of all tasks, whose ranks or scalings differ."
        fix = "Give all tasks the same `lora_rank` and `lora_alpha`, or leave `faithful` out."
        raise CompatibilityError(Problem("cl.method.faithful", what, fix))
    a = sum(update.a[layer].float() for update in updates)
    b = sum(update.b[layer].float() for update in updates)
    return bank.Experts([a], [bank.Expert(b, 0, updates[0].scaling * epsilon)])  # type: ignore[list-item,arg-type]
