"""DISCO (MCITlib): an expert per task, weighted per row in every layer.

Every task trains its own LoRA on the base. At test ``W + sum_i d_i s B_i A_i`` with ``d = softmax(r / tau)`` and
``r_i = cos(u, text anchor i)``: an anchor is the mean of the text features of a task's samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ...base.schema import option
from ...contract.base_model import BaseModel
from ..selecting import SelectingConfig
from ..weighted import SHARED, WeightedExperts


if TYPE_CHECKING:
    from torch import Tensor

    from ...selectors import Selector


@dataclass(frozen=True)
class DISCOConfig(SelectingConfig):
    """Options of `DISCO`."""

    selector: dict[str, Any] = option(
        factory=lambda: {"kind": "anchors", "features": ["text"]},
        help="What a row's weights come from: `{kind: anchors, features: [text]}`, with `features: clip_text` as in the "
        "authors' code, any other selector, or `{kind: oracle}` (the task is given).",
    )
    temperature: float = option(0.05, help="Divisor of the selector's scores in the softmax.", minimum=1e-6)
    experts: int | None = option(
        None,
        help="With `faithful: peer`: number of LoRAs in the softmax; those of tasks not learned yet have similarity 0.",
        minimum=1,
    )
    faithful: Literal["peer"] | None = option(
        None, help="`peer`: all rows of a batch get the weights of their mean text feature, as in the authors' code."
    )


class DISCO(WeightedExperts):
    """An expert per task, weighted per row in every layer."""

    name = "disco"
    title = "DISCO"
    config_class = DISCOConfig
    capabilities = replace(
        SHARED, memory="as plain LoRA in training; at test plus the LoRAs of all tasks next to the model"
    )

    def weighted(self, base: BaseModel) -> Callable[[str], bool]:
        """All layers."""
        return lambda name: True

    def peer_scores(self, selector: Selector, prepared: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
        """Scores of the batch's mean features."""
        return selector.scores(dict(prepared), vectors.mean(dim=0, keepdim=True))
