"""A module with a version of its parameters per task, chosen per row or per picture.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module

from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from .rows import RowState


class Versions(Module):
    """Stands in the place of a module.

    Args:
        module: The module; computes by itself while the base computes alone.
        versions: For each expert the parameters that replace the module's, by their names in it.
        state: The row state; ``kept["expert"]`` is the expert of each row.
        by_row: Whether the first dimension of its input is the rows; else it is the pictures of the forward.
    """

    def __init__(
        self, module: Module, versions: Sequence[Mapping[str, Tensor]], state: RowState, *, by_row: bool
    ) -> None:
        super().__init__()
        self.module, self._state, self._by_row = module, state, by_row
        self._names = [tuple(version) for version in versions]
        for number, version in enumerate(versions):
            for name, value in version.items():
                like = module.get_parameter(name)
                if like.shape != value.shape:
                    raise ValueError(f"version {number} of {name} has shape {tuple(value.shape)}")
                self.register_buffer(self._buffer(number, name), value.detach().to(like.device), persistent=False)

    @staticmethod
    def _buffer(number: int, name: str) -> str:
        return f"cl_{number}_{name}"

    @property
    def weight(self) -> Any:
        """The weight of the module itself, for code that asks for its dtype or device."""
        return self.module.weight

    def forward(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Each row, or each picture, by the version of its expert."""
        if self._state.off:
            return self.module(inputs, *args, **kwargs)
        dim, experts = self._experts(tuple(inputs.shape))
        found = sorted(set(experts))
        if len(found) == 1:
            return self._call(found[0], inputs, *args, **kwargs)
        output: Any = None
        for number in found:
            at = torch.tensor([i for i, e in enumerate(experts) if e == number], device=inputs.device)
            part = self._call(number, inputs.index_select(dim, at), *args, **kwargs)
            if output is None:
                output = part.new_zeros(*part.shape[:dim], len(experts), *part.shape[dim + 1 :])
            output = output.index_copy(dim, at, part.to(output.dtype))
        return output

    def _experts(self, shape: tuple[int, ...]) -> tuple[int, list[int]]:
        """The dimension of an input that is computed by several experts, and the expert of each entry.

        Raises:
            CompatibilityError: If a choice is not taken yet, or the input is not of the forward's pictures.
        """
        rows = self._state.current
        if "expert" not in rows.kept:
            what = "compute pictures before the tower has seen the videos of the batch, on which the choice depends as well."
            fix = "Leave the projector frozen, or use data with either pictures or videos."
            raise CompatibilityError(Problem("modules with a version per task", what, fix))
        chosen: list[int] = rows.kept["expert"].tolist()
        if self._by_row:
            return 0, chosen
        dim, owners = rows.shown[-1].owners_of(shape)
        return dim, [chosen[max(row, 0)] for row in owners]

    def _call(self, number: int, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        names = self._names[number]
        parameters = {name: getattr(self, self._buffer(number, name)) for name in names}
        return functional_call(self.module, parameters, (inputs, *args), kwargs)
