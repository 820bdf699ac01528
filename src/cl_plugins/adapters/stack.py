"""Past updates as one frozen, rank-concatenated term in the forward of each linear layer.

Exact for every base: nothing is added to the weights, so nothing is rounded away, and a quantised weight stays as it
is. The cost is one pair of thin matrices however many tasks lie behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..contract.low_rank import LowRankUpdate
from .merge import factors, modules


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


A, B = "cl_past_a", "cl_past_b"


def _add_past(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook: ``output + B (A x)``, in the precision in which PEFT computes a LoRA term."""
    from torch.nn.functional import linear

    past = linear(linear(args[0].to(module.cl_past_a.dtype), module.cl_past_a), module.cl_past_b)
    return (output + past).to(output.dtype)


class Stack:
    """The frozen past of a model. `attach` puts it on, `detach` takes it off.

    Args:
        model: The base without adapters; a LoRA may be put on it afterwards and sees no difference.
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self._handles: dict[str, Any] = {}

    def attach(self, updates: Sequence[LowRankUpdate]) -> None:
        """Let the model compute base + updates.

        Buffers of shape (R, in) and (out, R) in fp32 are registered on each touched module, not saved with it; R is
        the sum of the ranks.

        Raises:
            RunStateError: If an update names a module that the model lacks.
        """
        self.detach()
        known = dict(self._model.named_modules())
        for name in modules(updates):
            if name not in known:
                raise RunStateError(
                    Problem(
                        "carry", f"names the module '{name}', which this base lacks.", "Use the base it was made with."
                    )
                )
            pair = factors(updates, name)
            if pair is None:
                continue
            module = known[name]
            device = next(module.parameters()).device
            module.register_buffer(A, pair[0].to(device), persistent=False)
            module.register_buffer(B, pair[1].to(device), persistent=False)
            self._handles[name] = module.register_forward_hook(_add_past)

    def detach(self) -> None:
        """Take the past off again."""
        known = dict(self._model.named_modules())
        for name, handle in self._handles.items():
            handle.remove()
            for buffer in (A, B):
                delattr(known[name], buffer)
        self._handles = {}
