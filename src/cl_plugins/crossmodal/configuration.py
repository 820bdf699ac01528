"""The config of the classifier, with the checks of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

from ..base.errors import Problem
from ..base.schema import option


KINDS = ("vision", "audio", "text", "signal")


@dataclass(frozen=True)
class ClassifierOptions:
    """The keys of ``classifier:`` in a recipe: what is trained on top of the frozen encoders."""

    adapters: Literal["multiplicative", "additive", "none"] = option(
        "multiplicative",
        help="Form of an expert: rescales the features by maps made with the other modalities (C1, C2), adds cross-attention "
        "to them, or no adapters at all.",
    )
    blocks: int = option(4, minimum=1, help="Blocks that every encoder is cut into; an adapter follows each (C5).")
    experts: int = option(10, minimum=1, help="Experts of every adapter.")
    top: int = option(2, minimum=1, help="Experts that the gate picks for a sample.")
    bottleneck: int = option(64, minimum=1, help="Width of an expert (C3).")
    gate: Literal["shared", "per_modality"] = option(
        "shared", help="One choice of experts for all modalities of a sample, or one for each (C2)."
    )
    projection: int = option(512, minimum=1, help="Width of the joint representation and of each modality's (C4).")
    pool: Literal["mean", "first"] = option(
        "mean",
        help="What stands for an encoder's output: the mean of its tokens, or the first one, of several frames the mean of "
        "their first ones (C4).",
    )

    def value_problems(self, where: str) -> list[Problem]:
        """Options that contradict each other.

        Args:
            where: YAML path for the messages.
        """
        if self.top <= self.experts:
            return []
        what = f"is {self.top}, and there are {self.experts} experts."
        return [Problem(f"{where}.top", what, "Choose at most as many as there are experts.")]


class CrossModalConfig(PretrainedConfig):
    """Config of `cl_plugins.crossmodal.model.CrossModalClassifier`.

    Args:
        encoders: Modality -> ``{"kind": ..., "config": {...}}``, the latter the encoder's own config with ``model_type``.
        labels: Names of the classes, in the order of the head's rows.
        adapters: See `ClassifierOptions`, also for the arguments below.
        blocks: Blocks of every encoder.
        experts: Experts of every adapter.
        top: Experts per sample.
        bottleneck: Width of an expert.
        gate: ``shared`` or ``per_modality``.
        projection: Width of the representations.
        pool: ``mean`` or ``first``.
        **kwargs: As for every config.
    """

    model_type = "cl_crossmodal"

    def __init__(
        self,
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
        labels: Sequence[str] = (),
        adapters: str = "multiplicative",
        blocks: int = 4,
        experts: int = 10,
        top: int = 2,
        bottleneck: int = 64,
        gate: str = "shared",
        projection: int = 512,
        pool: str = "mean",
        **kwargs: Any,
    ) -> None:
        # sorted: the order in which modalities are written changes nothing
        self.encoders = {name: dict(encoders[name]) for name in sorted(encoders)} if encoders else {}
        self.labels = list(labels)
        self.adapters, self.blocks, self.experts, self.top = adapters, blocks, experts, top
        self.bottleneck, self.gate, self.projection, self.pool = bottleneck, gate, projection, pool
        super().__init__(**kwargs)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, sorted."""
        return tuple(sorted(self.encoders))
