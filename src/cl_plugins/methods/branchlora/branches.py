"""Puts trunks, branches and routers on the layers that ``lora_target`` names, and puts together what is carried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...adapters import bank
from ...adapters.rows import RowState
from ...adapters.update import adapter_meta, trained_factors
from ..moelora.experts import check_rank
from ..row_gates import check_places
from ..same_options import check_same, check_same_layers
from .gate import ROUTER, ROUTERS, BranchGate


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...adapters.row_features import Rows
    from ...contract.base_model import BaseModel
    from .config import BranchLoRAConfig


STD = 0.01  # of A with `init: normal`
#: Options that a carry and the recipe that goes on with it must share.
SHARED = ("branches", "shared_trunk", "top_k", "gate_input", "gate_norm", "routers")


@dataclass(frozen=True)
class Past:
    """What earlier tasks left.

    Attributes:
        tensors: ``<layer>.cl_a`` with all trunks below each other, ``<layer>.cl_b`` with all branches next to each other,
            and the latest ``<layer>.cl_router``.
        frozen: Layer -> (branches,), bool.
        routers: For each task ``<layer>.cl_router``; empty where all tasks share one.
        meta: What `put_on` said of the model that they come from; empty for no comparison.
    """

    tensors: dict[str, Tensor]
    frozen: dict[str, Tensor]
    routers: list[dict[str, Tensor]] = field(default_factory=list)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def check(self, meta: Mapping[str, Any], layers: Iterable[str]) -> None:
        """Compare with a model that is about to be built.

        Args:
            meta: What `put_on` says of it.
            layers: The layers that ``lora_target`` names.

        Raises:
            RunStateError: If it has other options, another rank, another scaling or other layers.
        """
        names = {**{key: f"cl.method.{key}" for key in SHARED}, "rank": "lora_rank", "scaling": "lora_alpha"}
        if self.meta:
            check_same(self.meta, meta, names)
        check_same_layers(layers_of(self.tensors), layers)


@dataclass(frozen=True)
class Branched:
    """A base with branches.

    Attributes:
        model: The model.
        meta: Rank, scaling and targets of the host's LoRA, and the options that later tasks must share.
        gates: Layer -> its gate; empty with a single branch.
    """

    model: Module
    meta: dict[str, Any]
    gates: dict[str, BranchGate]


def put_on(
    base: BaseModel,
    config: BranchLoRAConfig,
    past: Past | None,
    begin: Callable[[RowState, Rows], None],
    *,
    seed: int | None,
    trained: bool,
) -> Branched:
    """Put trunk, branches and routers on the base.

    Args:
        base: The base, reset.
        config: The options.
        past: What earlier tasks left; None before the first, whose branches are 0.
        begin: Called for every prompt; puts the number of each row's task into ``kept["expert"]``.
        seed: Seed of new values.
        trained: Whether the task's tensors are parameters: the trunk, branches that are not frozen and one router. Else
            everything is frozen, and there are the routers of all tasks.

    Raises:
        RecipeError: If the rank is not a multiple of the branches.
        CompatibilityError: If a target is no layer of the language model.
        RunStateError: If the past was made with other options, rank, scaling or layers.
    """
    import torch

    adapted = base.new_adapter(seed)
    meta = {**adapter_meta(adapted), **{key: getattr(config, key) for key in SHARED}}
    starts = {name: (a.detach().clone(), b.shape[0]) for name, (a, b) in trained_factors(adapted).items()}
    if past is not None:
        past.check(meta, starts)
    check_rank(meta["rank"], config.branches, "branches")
    dropout = float(adapted.peft_config["default"].lora_dropout)  # type: ignore[index, union-attr]
    model = base.prepare_frozen()
    check_places(base.model, list(starts))
    state: RowState = base.rows(lambda rows: begin(state, rows))
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    layers, gates = {}, {}
    for name, (a, out) in starts.items():
        trunks, branches, frozen = _parts(config, past, name, a, out, generator)
        experts = [
            bank.Expert(b, 0 if config.shared_trunk else i, meta["scaling"], trained and not frozen[i])
            for i, b in enumerate(branches)
        ]
        trains = [trained] if config.shared_trunk else [trained and not held for held in frozen]
        gate = None
        if config.branches > 1:
            _put_router(base, config, past, name, a, generator, trained)
            gate = gates[name] = BranchGate(name, base.model.get_submodule(name), state, config)
        layers[name] = bank.Experts(trunks, experts, trains, gate, dropout, own_masks=not config.shared_trunk)
    bank.attach(base, layers)
    return Branched(model, meta, gates)


def layers_of(tensors: dict[str, Tensor]) -> list[str]:
    """Layers that have trunks or branches among some tensors, sorted."""
    kinds = (f".{bank.A}", f".{bank.B}")
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith(kinds)})


def routers_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``<layer>.cl_router`` among some tensors."""
    return {name: tensor for name, tensor in tensors.items() if name.endswith(f".{ROUTER}")}


def joined(learned: dict[str, Tensor], past: Past | None, config: BranchLoRAConfig, rank: int) -> dict[str, Tensor]:
    """What a task has learned, with what was frozen in its places.

    Args:
        learned: The trained tensors of the task.
        past: What earlier tasks left.
        config: The options.
        rank: Rank of a branch.

    Returns:
        As `Past.tensors`, with the tensors that are no part of a layer (the projector); frozen branches keep their bits.
    """
    import torch

    before = {} if past is None else past.tensors
    found = {n: t.clone() for n, t in learned.items() if not n.rpartition(".")[2].startswith("cl_")}
    found |= {n: t.clone() for n, t in {**routers_of(before), **routers_of(learned)}.items()}
    for layer in layers_of({**before, **learned}):
        for kind, dim in ((bank.A, 0), (bank.B, 1)):
            name = f"{layer}.{kind}"
            if past is None or (kind == bank.A and config.shared_trunk):
                found[name] = learned[name].clone()
                continue
            old, new = before[name].split(rank, dim), iter(learned[name].split(rank, dim) if name in learned else ())
            frozen = past.frozen[layer].bool().tolist()
            parts = [old[i] if frozen[i] else next(new) for i in range(config.branches)]
            found[name] = torch.cat(parts, dim).contiguous()
    return found


def _parts(
    config: BranchLoRAConfig, past: Past | None, name: str, a: Tensor, out: int, generator: Any
) -> tuple[list[Tensor], list[Tensor], list[bool]]:
    """Trunks, branches, and which branches are frozen."""
    import torch

    rank = a.shape[0] // config.branches
    if past is None:
        trunks = list((a[:rank] if config.shared_trunk else a).split(rank))
        if config.init == "normal":
            trunks = [(torch.randn(t.shape, generator=generator) * STD).to(a.device) for t in trunks]
        branches = [torch.zeros(out, rank, device=a.device) for _ in range(config.branches)]
        return trunks, branches, [False] * config.branches
    trunks = list(past.tensors[f"{name}.{bank.A}"].split(rank))
    branches = list(past.tensors[f"{name}.{bank.B}"].split(rank, dim=1))
    return trunks, branches, past.frozen[name].bool().tolist()


def _put_router(
    base: BaseModel, config: BranchLoRAConfig, past: Past | None, name: str, a: Tensor, generator: Any, trained: bool
) -> None:
    """The router that trains, or those of all tasks."""
    import torch

    own = f"{name}.{ROUTER}"
    if not trained and past is not None and config.routers == "per_task":
        routers = torch.stack([task[own] for task in past.routers])
        base.register(f"{name}.{ROUTERS}", routers.to(a.device), trained=False)
        return
    bound = 1 / math.sqrt(a.shape[1])
    router = (torch.rand(config.branches, a.shape[1], generator=generator) * 2 - 1) * bound
    if past is not None and (config.routers == "shared" or config.router_init == "previous"):
        router = past.tensors[own].clone()
    base.register(own, router.to(a.device), trained=trained)
