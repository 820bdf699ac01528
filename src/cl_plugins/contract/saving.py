"""Tensors as a safetensors file takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor


def saveable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, dense and contiguous, none of which shares its memory with another.

    Args:
        tensors: Name -> tensor: views, transposed and repeated ones included.
    """
    import torch

    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        own = value.detach().cpu()
        own = (own if own.layout is torch.strided else own.to_dense()).contiguous()
        if own.untyped_storage().data_ptr() in taken:
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def dtype_problem(tensors: Mapping[str, Tensor]) -> str | None:
    """Which tensor has a dtype that safetensors cannot write; None if all can be written."""
    from safetensors.torch import save

    for name, value in {value.dtype: (name, value) for name, value in tensors.items()}.values():
        try:
            save({"x": value.new_empty(0, device="cpu")})
        except Exception:  # safetensors has several kinds of errors for this
            return f"{name!r} of dtype {value.dtype}"
    return None
