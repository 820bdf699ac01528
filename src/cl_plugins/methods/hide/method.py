"""HiDe-LLaVA (Guo et al., ACL 2025): hierarchical decoupling of the layers.

Every task trains its own LoRA on the base. At test ``W + sum_i epsilon s B_i A_i`` in all layers but the last one, and
``W + sum_i d_i s B_i A_i`` there, with ``d = softmax(r / tau)`` per row and
``r_i = (cos(v, image anchor i) + cos(u, text anchor i)) / 2``. An anchor is the mean of the features of a task's samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import CompatibilityError, Problem
from ...base.schema import option
from ...contract.base_model import BaseModel
from ..selecting import SelectingConfig
from ..weighted import SHARED, WeightedExperts


if TYPE_CHECKING:
    from torch import Tensor

    from ...adapters.bank import Experts
    from ...selectors import Selector
    from ...selectors.router import Learned


@dataclass(frozen=True)
class HiDeConfig(SelectingConfig):
    """Options of `HiDe`."""

    selector: dict[str, Any] = option(
        factory=lambda: {"kind": "anchors", "features": ["vision", "text"]},
        help="What a row's weights come from: `{kind: anchors, features: [vision, text]}`, with `features: clip` as in the "
        "paper, any other selector, or `{kind: oracle}` (the task is given).",
    )
    temperature: float = option(0.1, help="Divisor of the selector's scores in the softmax.", minimum=1e-6)
    layers: int = option(
        1,
        help="Number of last layers of the language model whose LoRAs are weighted per question; 0 adds them everywhere.",
        minimum=0,
    )
    epsilon: float = option(1.0, help="Factor on every LoRA in the other layers.", minimum=0)
    experts: int | None = option(
        None,
        help="With `faithful: peer`: number of LoRAs in the softmax; those of tasks not learned yet have similarity 0.",
        minimum=1,
    )
    faithful: Literal["peer"] | None = option(
        None,
        help="`peer`: the product of sums in the other layers and the largest similarity of the batch, as in the authors' "
        "code.",
    )


class HiDe(WeightedExperts):
    """An expert per task: fused in most layers, weighted per row in the last one."""

    name = "hide"
    title = "HiDe-LLaVA"
    config_class = HiDeConfig
    capabilities = replace(
        SHARED, memory="as plain LoRA in training; at test plus the LoRAs of all tasks next to the model"
    )

    def weighted(self, base: BaseModel) -> Callable[[str], bool]:
        """The last layers of the language model."""
        from .layers import last_layers

        return last_layers(base, self.config.layers)

    def fuse(self, tasks: Sequence[Learned], layer: str) -> Experts:
        """The sum of the experts; in the authors' code the product of the sums of their factors."""
        from .layers import product_of_sums, sum_of_products

        return (product_of_sums if self.peer else sum_of_products)(tasks, layer, self.config.epsilon)

    def peer_scores(self, selector: Selector, prepared: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
        """The largest similarity of the batch, for every feature."""
        from ...selectors.anchors import Anchors
        from .gate import batch_maximum

        if not isinstance(selector, Anchors):
            fix = "Use `cl.method.selector.kind: anchors`, or leave `faithful` out."
            raise CompatibilityError(Problem("cl.method.faithful", "is the authors' rule for anchors.", fix))
        return batch_maximum(selector.similarities(dict(prepared), vectors))
