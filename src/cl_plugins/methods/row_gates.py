"""What a gate that is fixed at the prompt reads of a layer's input.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.places import find_decoder
from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from ..adapters.row_features import Rows


def check_shape(name: str, inputs: Tensor, rows: Rows) -> None:
    """A layer sees the prompt's tokens.

    Args:
        name: Name of the layer.
        inputs: (rows, length, in).
        rows: The prompts.

    Raises:
        CompatibilityError: If its input has other rows or positions.
    """
    if tuple(inputs.shape[:2]) != tuple(rows.ids.shape):
        what = f"sees an input of shape {tuple(inputs.shape[:2])} where the prompts have {tuple(rows.ids.shape)}."
        fix = "Choose layers of the language model in `lora_target`."
        raise CompatibilityError(Problem(f"layer '{name}'", what, fix))


def first_token(inputs: Tensor, rows: Rows) -> Tensor:
    """The first attended position of each row, which is no padding.

    Args:
        inputs: (rows, length, in).
        rows: The prompts.

    Returns:
        (rows, in).
    """
    numbers = torch.arange(len(inputs), device=inputs.device)
    return inputs[numbers, rows.first.to(inputs.device)]


def prompt_mean(inputs: Tensor, rows: Rows) -> Tensor:
    """The mean over the prompt of each row, without padding and without the answer of a training sample.

    Args:
        inputs: (rows, length, in).
        rows: The prompts.

    Returns:
        (rows, in), in at least fp32.
    """
    mean: Tensor = _PromptMean.apply(inputs, rows.prompt.to(inputs.device), rows.prompt_places)
    return mean


class _PromptMean(torch.autograd.Function):
    """Row by row forward, so that padding and the other rows of a batch change nothing; one product backward."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, where: Tensor, places: list[Any]) -> Tensor:
        ctx.save_for_backward(where)
        ctx.dtype = inputs.dtype
        wide = torch.promote_types(inputs.dtype, torch.float32)
        return torch.stack([row[at].to(wide).mean(dim=0) for row, at in zip(inputs, places, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (where,), (grad,) = ctx.saved_tensors, grads
        shares = where.to(grad.dtype) / where.sum(dim=1, keepdim=True)
        return (shares[:, :, None] * grad[:, None]).to(ctx.dtype), None, None


def check_places(model: Any, names: list[str]) -> None:
    """Layers whose gates read the prompt's tokens are those of the language model.

    Args:
        model: The base.
        names: The layers.

    Raises:
        CompatibilityError: If one of them is not.
    """
    inside = {id(module) for module in find_decoder(model).modules()}
    outside = [name for name in names if id(model.get_submodule(name)) not in inside]
    if outside:
        what = f"names '{outside[0]}', which is no layer of the language model; the choice is made by its tokens."
        raise CompatibilityError(Problem("lora_target", what, "Leave it out."))
