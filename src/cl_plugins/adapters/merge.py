"""Adding low-rank updates to weights, and measuring what rounding does to them.

The model is defined as the base plus the list of updates; nothing is ever merged into something merged before, since
``(W + d1) + d2`` and ``W + (d1 + d2)`` differ in floating point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..contract.low_rank import LowRankUpdate


if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..contract.base_model import BaseModel


def factors(updates: Sequence[LowRankUpdate], module: str) -> tuple[Tensor, Tensor] | None:
    """Rank-concatenated factors of one module: ``(A, B)`` with ``sum_i s_i B_i A_i == B @ A``.

    Args:
        updates: The updates in order.
        module: Module name.

    Returns:
        A of shape (sum of ranks, in) and B of shape (out, sum of ranks), fp32 on the CPU, scalings folded into B; None
        if no update touches the module.
    """
    import torch

    parts = [(u.a[module], u.b[module], u.scaling) for u in updates if module in u.a]
    if not parts:
        return None
    a = torch.cat([a.float() for a, _, _ in parts], dim=0)
    b = torch.cat([b.float() * scaling for _, b, scaling in parts], dim=1)
    return a, b


def modules(updates: Sequence[LowRankUpdate]) -> list[str]:
    """Names of all modules that the updates touch, sorted."""
    return sorted({name for update in updates for name in update.a})


def replaced(updates: Sequence[LowRankUpdate]) -> dict[str, Tensor]:
    """Replaced tensors; a later update's value wins, since they are replacements and not differences."""
    merged: dict[str, Tensor] = {}
    for update in updates:
        merged.update(update.replaced)
    return merged


def merged_weight(
    weight: Tensor, updates: Sequence[LowRankUpdate], module: str, device: str | torch.device = "cpu"
) -> Tensor:
    """``W + sum_i s_i B_i A_i`` in fp32.

    Args:
        weight: The base's weight, shape (out, in), any float dtype.
        updates: The updates in order.
        module: Module name.
        device: Where to compute.

    Returns:
        fp32 tensor of the same shape on ``device``.
    """
    import torch

    base = weight.to(device=device, dtype=torch.float32)
    pair = factors(updates, module)
    if pair is None:
        return base
    a, b = pair
    return torch.addmm(base, b.to(device), a.to(device))


@dataclass(frozen=True)
class MergeError:
    """How far a merged model is from the base plus its updates.

    Attributes:
        relative: ``|W_merged - (W + D)| / |D|``, Frobenius norms over all modules, D the sum of the updates.
        best: The same for one best rounding of ``W + D`` to the dtype of the merged weights.
        update: ``|D| / |W|``.
        dtype: Dtype of the merged weights.
    """

    relative: float
    best: float
    update: float
    dtype: str

    @classmethod
    def none(cls) -> MergeError:
        """Of updates that stay next to the unchanged weights: nothing is merged, so nothing is rounded."""
        return cls(0.0, 0.0, 0.0, "not merged")

    def to_dict(self) -> dict[str, float | str]:
        """As JSON."""
        return {
            "relative": self.relative,
            "best_rounding": self.best,
            "update_over_weight": self.update,
            "dtype": self.dtype,
        }

    def __str__(self) -> str:
        """For the log."""
        return (
            f"merge error {self.relative:.1e}: the part of the update that is lost by rounding to {self.dtype} "
            f"(at least {self.best:.1e})"
        )


def merge_into(
    base: BaseModel,
    updates: Sequence[LowRankUpdate],
    dtype: torch.dtype | None = None,
    meter: MergeMeter | None = None,
) -> None:
    """Set every weight that the updates touch to the checkpoint's value plus their sum.

    Args:
        base: The base, reset.
        updates: The updates in order.
        dtype: Dtype of the merged weights; fp32 by default.
        meter: Measures the rounding, if given.
    """
    for module in modules(updates):
        name = f"{module}.weight"
        original = base.original(name)
        merged = merged_weight(original, updates, module)
        merged = merged if dtype is None else merged.to(dtype)
        if meter is not None:
            meter.add(original, updates, module, merged)
        base.replace(name, merged)
    for name, value in replaced(updates).items():
        base.replace(name, value if dtype is None else value.to(dtype))


class MergeMeter:
    """Adds up squared errors over modules; see `MergeError`."""

    def __init__(self) -> None:
        self._error = self._best = self._update = self._weight = 0.0
        self._dtype = "none"

    def add(self, weight: Tensor, updates: Sequence[LowRankUpdate], module: str, merged: Tensor) -> None:
        """Measure one module in fp64.

        Args:
            weight: The base's weight, shape (out, in).
            updates: The updates.
            module: Module name.
            merged: The weight after merging.
        """
        import torch

        exact = weight.detach().cpu().to(torch.float64)
        self._weight += float(exact.square().sum())
        delta = torch.zeros_like(exact)
        for update in updates:
            if module in update.a:
                delta += update.scaling * (update.b[module].cpu().double() @ update.a[module].cpu().double())
        exact += delta
        got = merged.detach().cpu()
        self._update += float(delta.square().sum())
        self._error += float((got.double() - exact).square().sum())
        self._best += float((exact.to(got.dtype).double() - exact).square().sum())
        self._dtype = str(got.dtype).removeprefix("torch.")

    def result(self) -> MergeError:
        """The ratios; 0 where there is no update at all."""
        if self._update == 0.0:
            return MergeError(0.0, 0.0, 0.0, self._dtype)
        scale = math.sqrt(self._update)
        share = scale / math.sqrt(self._weight) if self._weight else math.inf
        return MergeError(math.sqrt(self._error) / scale, math.sqrt(self._best) / scale, share, self._dtype)
