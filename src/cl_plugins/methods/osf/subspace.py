"""A linear layer whose small singular directions train, and whose large ones stay.

``W = U_h S_h V_h + U S V``; the second part trains as ``(U + dU)(S + dS)(V + dV)``. What is added to the output is written in
the differences, ``dU S' V' x + U dS V' x + U S dV x`` with ``S' = S + dS`` and ``V' = V + dV``: it is exactly 0 at first, and no
digits are lost in half precision. Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear


if TYPE_CHECKING:
    from ...contract.base_model import BaseModel


#: What trains on a layer: (out, k), (k,) and (k, in).
TRAINED = ("cl_du", "cl_ds", "cl_dv")
#: Where it started; checkpoints hold it, since another machine may find other signs of the singular vectors.
_START = ("cl_live_u", "cl_live_s", "cl_live_v")
_HIGH = ("cl_u_high", "cl_v_high")


def split(weight: Tensor, preserved: int) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Singular value decomposition of a weight in two parts.

    Args:
        weight: (out, in).
        preserved: Number of the largest singular values that stay.

    Returns:
        U (out, k), S (k,) and V (k, in) of the others; U (out, preserved) and V (preserved, in) of the preserved ones. All
        at least in fp32.
    """
    u, s, v = torch.linalg.svd(weight.to(torch.promote_types(weight.dtype, torch.float32)), full_matrices=False)
    low = u[:, preserved:].contiguous(), s[preserved:].contiguous(), v[preserved:].contiguous()
    return low, (u[:, :preserved].contiguous(), v[:preserved].contiguous())


def preserved_rank(shape: Sequence[int], share: float) -> int:
    """Singular values that stay: ``int(share * min(shape))``, at least 1 and not all.

    Args:
        shape: (out, in).
        share: Between 0 and 1.
    """
    smaller = min(shape)
    return max(min(int(smaller * share), smaller - 1), 1)


def put_on(base: BaseModel, name: str, share: float) -> None:
    """Let the small singular directions of a layer train; `BaseModel.reset` takes that off.

    The gradients of dU and dV are projected onto the complement of the preserved directions.

    Args:
        base: The base.
        name: A linear layer of it.
        share: Share of the singular values that stay.
    """
    layer: Any = base.model.get_submodule(name)
    low, high = split(layer.weight.detach(), preserved_rank(layer.weight.shape, share))
    for key, value in zip(_START, low, strict=True):
        base.register(f"{name}.{key}", value, trained=False)
    for key, value in zip(_HIGH, high, strict=True):
        base.register(f"{name}.{key}", value, trained=False)
    for key, value in zip(TRAINED, low, strict=True):
        base.register(f"{name}.{key}", torch.zeros_like(value), trained=True)
    layer.cl_du.register_hook(partial(_without_columns, layer))
    layer.cl_dv.register_hook(partial(_without_rows, layer))
    base.hook(name, _forward)


def change(layer: Any) -> Tensor:
    """``(U + dU)(S + dS)(V + dV) - U S V``, (out, in)."""
    s, v = layer.cl_live_s + layer.cl_ds, layer.cl_live_v + layer.cl_dv
    moved: Tensor = (
        (layer.cl_du * s) @ v + (layer.cl_live_u * layer.cl_ds) @ v + (layer.cl_live_u * layer.cl_live_s) @ layer.cl_dv
    )
    return moved


def keep_orthogonal(layer: Any) -> None:
    """Take out of dU and dV what an optimizer has moved along the preserved directions."""
    with torch.no_grad():
        layer.cl_du.copy_(_without_columns(layer, layer.cl_du))
        layer.cl_dv.copy_(_without_rows(layer, layer.cl_dv))


def _without_columns(layer: Any, value: Tensor) -> Tensor:
    high = layer.cl_u_high
    found: Tensor = value - high @ (high.T @ value)
    return found


def _without_rows(layer: Any, value: Tensor) -> Tensor:
    high = layer.cl_v_high
    found: Tensor = value - (value @ high.T) @ high
    return found


def _forward(layer: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook: the layer's output plus the change."""
    x = args[0].to(layer.cl_dv.dtype)
    read = linear(x, layer.cl_live_v + layer.cl_dv)
    outer = linear(read * (layer.cl_live_s + layer.cl_ds), layer.cl_du)
    inner = linear(read * layer.cl_ds + linear(x, layer.cl_dv) * layer.cl_live_s, layer.cl_live_u)
    return (output + outer + inner).to(output.dtype)
