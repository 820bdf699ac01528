"""A low-rank update of a model: the factors of several modules and the tensors that replace the base's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from .names import is_own


if TYPE_CHECKING:
    from torch import Tensor


PREFIX = "base_model.model."


@dataclass
class LowRankUpdate:
    """The update ``W += scaling * B @ A`` of several modules, and the tensors that replace the base's.

    Attributes:
        a: Module name -> A, shape (rank, in), with the scaling not included.
        b: Module name -> B, shape (out, rank).
        scaling: The factor.
        replaced: Parameter name -> new value (``additional_target``).
    """

    a: dict[str, Tensor] = field(default_factory=dict)
    b: dict[str, Tensor] = field(default_factory=dict)
    scaling: float = 1.0
    replaced: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], meta: dict[str, Any]) -> LowRankUpdate:
        """Sort PEFT's names into A, B and replaced tensors.

        Raises:
            CompatibilityError: If the adapter holds something that is not a plain LoRA of linear layers.
        """
        update = cls(scaling=float(meta["scaling"]))
        for name, tensor in tensors.items():
            plain = name.removeprefix(PREFIX)
            if is_own(plain):  # a method's own, no part of the sum
                continue
            if plain.endswith(".lora_A.weight"):
                update.a[plain.removesuffix(".lora_A.weight")] = tensor
            elif plain.endswith(".lora_B.weight"):
                update.b[plain.removesuffix(".lora_B.weight")] = tensor
            elif ".lora_" in plain:
                fix = "Use plain LoRA on linear layers (no DoRA, no LoRA on embeddings, no LoRA bias)."
                raise CompatibilityError(Problem("update", f"contains '{plain}', which cannot be merged.", fix))
            else:
                update.replaced[plain] = tensor
        return update
