"""Options of the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...base.schema import option


@dataclass(frozen=True)
class CrossModalOptions:
    """Options of crossmodal."""

    distil: float = option(1.0, minimum=0, help="Weight of the distillation of memory rows (C6).")
    temperature: float = option(2.0, minimum=1e-3, help="Temperature of the distillation (C6).")
    align: Literal["infonce", "cosine", "contrastive", "none"] = option(
        "infonce",
        help="Pull every modality to the joint representation, by InfoNCE or by the cosine alone (C8); or, for comparison, "
        "contrast the modalities with each other, or nothing.",
    )
    align_weight: float = option(1.0, minimum=0, help="Weight of the alignment (C8).")
    align_temperature: float = option(0.1, minimum=1e-3, help="Temperature of `infonce` and `contrastive` (C8).")
    preserve: float = option(
        1.0,
        minimum=0,
        help="Factor on the preservation's weight sqrt(t-1), which the paper states; 0 leaves the term out.",
    )
    preserve_temperature: float = option(0.1, minimum=1e-3, help="Temperature of the similarities it compares (C7).")
    freeze: Literal["assignments", "samples", "none"] = option(
        "assignments",
        help="Experts are frozen by their share of all assignments (C9), by the share of samples that use them, or never.",
    )
    threshold: float = option(0.1, minimum=0, help="Experts that are used more often are frozen after the step.")
    memory_rows: int = option(
        8, minimum=1, help="Memory rows per micro-batch at least, as far as there are; more if the batch is larger."
    )
