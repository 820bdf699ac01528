"""Makes the experts of every target layer out of the LoRA that the host would put there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...adapters import bank
from ...adapters.update import adapter_meta, trained_factors
from ...base.errors import Problem, RecipeError
from .gate import ROUTER, TokenSoftmax


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel


PEER_STD = 0.01  # of every element of A in the authors' code


def put_on(
    base: BaseModel,
    count: int,
    seed: int | None,
    *,
    peer: bool,
    gate_of: Callable[[str, Module], bank.Gate] = lambda name, layer: TokenSoftmax(layer),
    router: bool = True,
) -> tuple[Module, dict[str, Any]]:
    """Put experts and routers on the layers that ``lora_target`` names.

    The recipe's LoRA of rank r is split into ``count`` experts of rank ``r / count``: its A becomes theirs, so that one
    expert begins as that very LoRA. B is 0, and the router of a layer is uniform in +-1/sqrt(in), as `torch.nn.Linear`.

    Args:
        base: The base.
        count: Experts of a layer; a single one needs no router.
        seed: Seed of the initial values; None where they are about to be overwritten.
        peer: Draw A from N(0, 0.01^2), as the authors' code does.
        gate_of: Makes the gate of a layer that has its router as ``cl_router``.
        router: Whether the layers get this router; else ``gate_of`` registers what it needs.

    Returns:
        The model, and rank, scaling and targets of the host's LoRA with the number of experts.

    Raises:
        RecipeError: If the rank is not a multiple of ``count``.
    """
    import torch

    adapted = base.new_adapter(seed)
    meta = {**adapter_meta(adapted), "experts": count}
    check_rank(meta["rank"], count)
    dropout = _dropout(adapted)
    starts = {name: (a.detach().clone(), b.shape[0]) for name, (a, b) in trained_factors(adapted).items()}
    model = base.prepare_frozen()
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    layers = {}
    for name, (a, out) in starts.items():
        trunks = [_normal(part, generator) if peer else part for part in a.split(a.shape[0] // count)]
        experts = [
            bank.Expert(torch.zeros(out, len(trunk)), i, meta["scaling"], trained=True)
            for i, trunk in enumerate(trunks)
        ]
        gate = None
        if count > 1:
            if router:
                bound = 1 / math.sqrt(a.shape[1])
                start = (torch.rand(count, a.shape[1], generator=generator) * 2 - 1) * bound
                base.register(f"{name}.{ROUTER}", start.to(a.device), trained=True)
            gate = gate_of(name, base.model.get_submodule(name))
        layers[name] = bank.Experts(trunks, experts, [True] * count, gate, dropout, own_masks=True)
    bank.attach(base, layers)
    return model, meta


def check_rank(rank: int, count: int, parts: str = "experts") -> None:
    """The rank can be shared out among the experts.

    Args:
        rank: Rank of all experts together.
        count: Number of experts.
        parts: What they are called, as the method's option is.

    Raises:
        RecipeError: If not.
    """
    if rank % count:
        what = f"is {rank}, which is not a multiple of {count} {parts}; it is the rank of all {parts} together."
        raise RecipeError(Problem("lora_rank", what, f"Use a multiple of {count}, or change `cl.method.{parts}`."))


def _dropout(model: Any) -> float:
    return float(model.peft_config["default"].lora_dropout)


def _normal(like: Tensor, generator: Any) -> Tensor:
    import torch

    return (torch.randn(like.shape, generator=generator) * PEER_STD).to(like.device)
