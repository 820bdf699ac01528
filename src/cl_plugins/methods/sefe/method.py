"""SEFE's RegLoRA: a fresh LoRA per task; the elements of W that the past updates moved most are left alone.

``L = CE + weight * mean over modules m of mean over (i, j) in K_m of |(B A)_ij|`` (Chen et al. 2025, SEFE), with K_m the
top 2 % of ``|B A|`` of every past task in module m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...adapters.update import trained_factors
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ...contract.task import TaskContext
from ..chain import ChainConfig, LoRAChain
from .blocks import block_bounds, rows_per_block
from .magnitude import protected_magnitude
from .positions import merge_positions, top_positions


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.carry import Carry, CarryWriter, TaskUpdate


PEER_MODULES = 224  # the linear layers of a 7B language model, hard-coded in the original code for every model


@dataclass(frozen=True)
class SEFEConfig(ChainConfig):
    """Options of RegLoRA."""

    weight: float = option(2.5e3, minimum=0, help="Weight of the penalty; 0 gives IncLoRA.")
    share: float = option(
        0.02, minimum=0, help="Share of each module's elements that every task adds to the protected ones."
    )
    faithful: Literal["peer"] | None = option(
        None,
        help="Count an element once for every task that protects it, and divide by 224 modules, as in the original code.",
    )


@dataclass(frozen=True)
class _Protected:
    """The protected elements of one module, and its live factors."""

    a: Tensor
    b: Tensor
    positions: Tensor
    counts: Tensor | None
    bounds: Sequence[int]


class SEFE(LoRAChain):
    """A chain of LoRAs with protected elements."""

    name = "sefe"
    title = "SEFE (RegLoRA)"
    config_class = SEFEConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        grows=True,
        carries="the LoRA of every past task, the positions of its largest elements, and the latest projector",
        step_cost="as inclora plus three products of the size of B A for every module, once per optimizer step",
        memory="as inclora plus 4 bytes for every protected element (2 % of the weights for each task, shared ones once)",
    )
    starts_at_zero = True

    def __init__(self, config: SEFEConfig) -> None:
        super().__init__(config)
        self._cached: tuple[TaskContext, list[_Protected]] | None = None
        self._count: int | None = None

    def penalties(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The mean magnitude of the new update where past updates are protected, from the second task on."""
        import torch

        if self.config.weight == 0 or context.carry is None:
            return {}
        modules = self._protected(context, context.carry, model)
        values = [protected_magnitude(m.a, m.b, m.positions, m.counts, bounds=m.bounds) for m in modules]
        if not values:
            return {"sefe": torch.zeros(())}
        divisor = PEER_MODULES if self.config.faithful == "peer" else len(values)
        return {"sefe": self.config.weight * torch.stack(values).sum() / divisor}

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """The positions of this task's largest elements, by module."""
        self._cached = None
        if self.config.weight == 0 or context.rank != 0:  # rank 0 writes
            return {}
        factors = trained_factors(model).items()
        found = {name: top_positions(a, b, self.config.share).cpu() for name, (a, b) in factors}
        self._count = sum(positions.numel() for positions in found.values())
        return {"positions": found}

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """How many elements the task has added to the protected ones."""
        return {} if self._count is None else {"protected_elements": float(self._count)}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The chain, and each task's positions in separate files."""
        super().consolidate(previous, update, writer)
        if self.config.weight == 0:
            return
        earlier = list(previous.meta.get("positions", [])) if previous is not None else []
        for name in earlier:
            writer.link(previous.path / name, name)  # type: ignore[union-attr]
        new = f"positions/{len(earlier) + 1:02d}_{update.task}.safetensors"
        writer.link(update.statistic("positions"), new)
        writer.meta["positions"] = [*earlier, new]

    def _protected(self, context: TaskContext, carry: Carry, model: Module) -> list[_Protected]:
        """Read once per task, on the device of the model."""
        if self._cached is None or self._cached[0] is not context:
            past = [carry.load(name) for name in carry.meta.get("positions", [])]
            found = []
            for name, (a, b) in trained_factors(model).items():
                lists = [positions[name].to(a.device) for positions in past if name in positions]
                if lists:
                    found.append(self._module(a, b, lists))
            self._cached = (context, found)
        return self._cached[1]

    def _module(self, a: Tensor, b: Tensor, lists: list[Tensor]) -> _Protected:
        import torch

        positions, counts = merge_positions(lists)
        rows = rows_per_block(a.shape[1], torch.promote_types(a.dtype, torch.float32))
        bounds = block_bounds(positions, rows, a.shape[1], b.shape[0])
        return _Protected(a, b, positions, counts if self.config.faithful == "peer" else None, bounds)
