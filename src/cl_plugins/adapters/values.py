"""A few values of every tensor of a base, to notice that someone else has changed it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .partitioned import is_partitioned


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


_VALUES = 32  # of each tensor


@dataclass(frozen=True)
class Values:
    """Values from all parts of every parameter that can be compared: whole, in memory, and of floating point.

    Attributes:
        found: Name of a parameter -> its shape, and some of its values on the CPU.
    """

    found: dict[str, tuple[tuple[int, ...], Tensor]]

    @classmethod
    def of(cls, model: Module) -> Values:
        """Read them, with one transfer per device.

        Args:
            model: The model without adapters.
        """
        import torch

        parts: dict[Any, list[tuple[str, tuple[int, ...], Tensor]]] = {}
        for name, parameter in model.named_parameters():
            tensor = parameter.detach()
            if type(tensor) is torch.Tensor and tensor.is_floating_point() and not tensor.is_meta:
                if not is_partitioned(parameter):
                    part = _some(tensor).to(torch.float32)
                    parts.setdefault(tensor.device, []).append((name, tuple(tensor.shape), part))
        found: dict[str, tuple[tuple[int, ...], Tensor]] = {}
        for group in parts.values():
            values = torch.cat([part for *_, part in group]).cpu().split([len(part) for *_, part in group])
            found |= {name: (shape, value) for (name, shape, _), value in zip(group, values, strict=True)}
        return cls(found)

    def sha256(self) -> str:
        """One hash over names, shapes and values."""
        digest = hashlib.sha256()
        for name, (shape, values) in sorted(self.found.items()):
            digest.update(f"{name} {shape} ".encode() + values.numpy().tobytes())
        return digest.hexdigest()

    def changed(self, model: Module) -> list[str]:
        """Names of parameters that no longer have these values.

        Args:
            model: The model, without adapters.
        """
        import torch

        now, names = Values.of(model).found, []
        for name, (shape, before) in self.found.items():
            if name in now:  # one that cannot be compared any more is left out
                after = now[name]
                if after[0] != shape or not torch.equal(after[1].nan_to_num(), before.nan_to_num()):
                    names.append(name)
        return names


def _some(tensor: Tensor) -> Tensor:
    """Values at equal distances; the distance is odd, so that they come from several columns of a matrix."""
    flat = tensor.flatten()
    return flat[:: (len(flat) // _VALUES) | 1][:_VALUES]
