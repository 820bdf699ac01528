"""The classifier over several frozen encoders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..base.errors import CompatibilityError, Problem
from .configuration import CrossModalConfig
from .encoders import BlockedEncoder, State, config_of, is_reserved, make_encoder, plain_config
from .experts import Adapter, Stream, mean_tokens


PRESENT = "present"


@dataclass
class CrossModalOutput(ModelOutput):  # type: ignore[misc]
    """What a forward returns.

    Attributes:
        loss: Mean cross-entropy, if labels are given.
        logits: (rows, classes).
        joint: (rows, projection), the joint representation z.
        parts: (rows, modalities, projection), that of each modality z_k, in sorted order; 0 where it is missing.
        present: (rows, modalities) bool.
        chosen: (blocks, rows, choices, top) numbers of the chosen experts; None without adapters.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    joint: Tensor | None = None
    parts: Tensor | None = None
    present: Tensor | None = None
    chosen: Tensor | None = None


class _Projection(nn.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, out), nn.Linear(out, out)

    def forward(self, values: Tensor) -> Tensor:
        """(rows, width) -> (rows, out)."""
        projected: Tensor = self.second(gelu(self.first(values)))
        return projected


def _check_new(labels: Sequence[str]) -> None:
    """Every class has a name of its own.

    Raises:
        CompatibilityError: Naming one that is there twice.
    """
    twice = [name for name, count in Counter(labels).items() if count > 1]
    if twice:
        raise CompatibilityError(Problem("labels", f"contain {twice[0]!r} twice.", "Name each class once."))


class CrossModalClassifier(PreTrainedModel):
    """Frozen encoders, adapters between their blocks, projections, fusion, and a head that grows.

    ``model(labels=..., present=..., **{"picture.pixel_values": ..., "sound.input_values": ...})``: the inputs of an encoder
    are named ``<modality>.<name>``. Rows that lack a modality have zeros there and False in ``present``.

    Args:
        config: Its config.
        encoders: Modality -> encoder with its weights; None makes new ones from the config.
    """

    config_class = CrossModalConfig
    base_model_prefix = "crossmodal"
    accepts_loss_kwargs = False  # the loss is a mean over rows
    _tied_weights_keys: Any = None

    def __init__(self, config: CrossModalConfig, encoders: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(config)
        names = config.modalities
        _check_new(config.labels)
        if not names or (len(names) < 2 and config.adapters != "none"):
            what = f"has {len(names)} encoders, and adapters need two."
            raise CompatibilityError(Problem("encoders", what, "Name another encoder, or set `adapters: none`."))
        bad = [name for name in names if not name.isidentifier() or is_reserved(name)]
        if bad:
            fix = "Use letters, digits and '_', and no name such as `values` that PyTorch uses itself."
            raise CompatibilityError(Problem(f"encoders.{bad[0]}", "is no name of a modality.", fix))
        made = encoders or {name: make_encoder(config_of(config.encoders[name]["config"])) for name in names}
        self.encoders = nn.ModuleDict({k: BlockedEncoder(made[k], config.blocks, k) for k in names})
        widths = {k: int(self.encoders[k].width) for k in names}  # type: ignore[arg-type]
        adapters = (
            Adapter(
                widths,
                experts=config.experts,
                top=config.top,
                bottleneck=config.bottleneck,
                additive=config.adapters == "additive",
                per_modality=config.gate == "per_modality",
            )
            for _ in range(config.blocks if config.adapters != "none" else 0)
        )
        self.adapters = nn.ModuleList(adapters)
        self.projections = nn.ModuleDict({k: _Projection(widths[k], config.projection) for k in names})
        self.fusion = _Projection(len(names) * config.projection, config.projection)
        self.classifier = nn.Linear(config.projection, len(config.labels))
        nn.init.zeros_(self.classifier.weight)  # a class that was never seen has a row of zeros
        nn.init.zeros_(self.classifier.bias)
        self.all_tied_weights_keys: dict[str, str] = {}

    @classmethod
    def from_encoders(cls, encoders: Mapping[str, nn.Module], labels: Sequence[str] = (), **options: Any) -> Any:
        """A classifier on encoders that are in memory.

        Args:
            encoders: Modality -> encoder of Transformers, of a known family.
            labels: Names of the classes.
            **options: As for `CrossModalConfig`.
        """
        about = {}
        for name, encoder in encoders.items():
            own: Any = encoder.config
            about[name] = {"config": plain_config(own)}
        return cls(CrossModalConfig(encoders=about, labels=labels, **options), encoders)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As of every Transformers model; the encoders are frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.encoders.requires_grad_(False)
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        """Every part is initialised where it is made."""

    def get_output_embeddings(self) -> nn.Module:
        """The head; selections of replay by features read its input."""
        return self.classifier

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the head."""
        self.classifier = value  # type: ignore[assignment]

    def trained_names(self) -> list[str]:
        """Names of all parameters that are not the encoders'."""
        return [name for name, _ in self.named_parameters() if not name.startswith("encoders.")]

    def add_labels(self, labels: Sequence[str]) -> None:
        """Let the head grow by new classes; the logits of the old ones do not change.

        Args:
            labels: Their names.

        Raises:
            CompatibilityError: If a name is there already, or twice among them.
        """
        known = [name for name in labels if name in self.config.labels]
        if known:
            raise CompatibilityError(Problem("labels", f"contain {known[0]!r} already.", "Name new classes only."))
        _check_new(labels)
        weight, bias = self.classifier.weight, self.classifier.bias
        self.config.labels = [*self.config.labels, *labels]
        head = nn.Linear(self.config.projection, len(self.config.labels)).to(weight.device, weight.dtype)
        with torch.no_grad():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            head.weight[: len(weight)], head.bias[: len(bias)] = weight, bias
        self.classifier = head

    def represent(self, **inputs: Any) -> CrossModalOutput:
        """Everything in front of the head.

        Args:
            **inputs: As for `forward`, without labels.
        """
        names = self.config.modalities
        given: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for key, value in inputs.items():
            name, _, own = key.partition(".")
            if name in given and own:
                given[name][own] = value
        missing = [name for name, own in given.items() if not own]
        if missing:
            what = f"is not among the inputs ({', '.join(inputs) or 'none'})."
            fix = "Pass `<modality>.<input>`; where a sample lacks a modality, zeros and `present`."
            raise CompatibilityError(Problem(f"modality '{missing[0]}'", what, fix))
        encoders: dict[str, Any] = {name: self.encoders[name] for name in names}
        states = {name: encoders[name].begin(given[name]) for name in names}
        rows = states[names[0]].hidden
        present = inputs.get(PRESENT)
        if present is None:
            present = torch.ones(len(rows), len(names), dtype=torch.bool, device=rows.device)
        chosen = []
        for block in range(self.config.blocks):
            for name in names:
                encoders[name].advance(states[name], block)
            if len(self.adapters):
                streams = {
                    k: Stream(self._cast(states[k].hidden, k), states[k].mask, present[:, i])
                    for i, k in enumerate(names)
                }
                changed, picked = self.adapters[block](streams)
                chosen.append(picked)
                for name in names:
                    states[name].hidden = self._cast(changed[name], name, back=True)
        parts = []
        for i, name in enumerate(names):
            pooled = self._pooled(encoders[name].finish(states[name]), states[name])
            projected = self.projections[name](self._cast(pooled, name))
            parts.append(projected * present[:, i, None].to(projected.dtype))
        stacked = torch.stack(parts, dim=1)
        joint = self.fusion(stacked.flatten(1))
        return CrossModalOutput(
            joint=joint, parts=stacked, present=present, chosen=torch.stack(chosen) if chosen else None
        )

    def _cast(self, hidden: Tensor, name: str, *, back: bool = False) -> Tensor:
        """What an encoder gives, for the trained parts, or back: the two may be held in different dtypes."""
        own, held = self.classifier.weight.dtype, next(self.encoders[name].parameters()).dtype
        return hidden if own == held else hidden.to(held if back else own)

    def _pooled(self, hidden: Tensor, state: State) -> Tensor:
        """What stands for an encoder's output: the mean of its tokens, or of the first one of each frame."""
        mask = state.mask
        if self.config.pool == "first":
            hidden, mask = (values.unflatten(1, (state.frames, -1))[:, :, 0] for values in (hidden, mask))
        return mean_tokens(hidden, mask)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> CrossModalOutput:
        """Classify.

        Args:
            labels: (rows,) numbers of the classes; -100 leaves a row out of the loss.
            **inputs: ``<modality>.<input of its encoder>``, and ``present`` (rows, modalities) bool, modalities sorted by
                name; without it every row has all of them.
        """
        found = self.represent(**inputs)
        found.logits = self.classifier(found.joint)
        if labels is not None:
            found.loss = cross_entropy(found.logits, labels)
        return found
