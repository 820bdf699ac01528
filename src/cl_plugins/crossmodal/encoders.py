"""Encoders of Transformers cut into blocks that can advance one by one.

An encoder runs up to its first layer, then layer by layer under our control, then through what follows the last one. The
place of the layers differs between families, so each family has an entry in `FAMILIES`; other packages may add one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from ..base.errors import CompatibilityError, Problem
from ..base.schema import nearest
from .signals import SignalConfig, SignalEncoder


@dataclass(frozen=True)
class Family:
    """Where the parts of an encoder are.

    Attributes:
        kind: ``vision``, ``audio``, ``text`` or ``signal``.
        layers: Places of the list of layers, the first that exists counts (versions of Transformers differ).
        norm: Places of what is applied to the output of the last layer; empty for nothing.
        inputs: Names of the inputs of its forward.
        make: Makes an encoder with new weights from its config; None for `AutoModel`.
        load: Loads an encoder with its weights from a folder or hub name; None for `AutoModel`.
        pooler: Whether its class takes ``add_pooling_layer``.
    """

    kind: str
    layers: tuple[str, ...]
    norm: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("pixel_values",)
    make: Callable[[Any], nn.Module] | None = None
    load: Callable[[str], nn.Module] | None = None
    pooler: bool = False


def _clip(config: Any) -> nn.Module:
    from transformers import CLIPVisionModel

    return CLIPVisionModel(config)


def _load_clip(name: str) -> nn.Module:
    from transformers import CLIPVisionModel

    return CLIPVisionModel.from_pretrained(name)


def _siglip(config: Any) -> nn.Module:
    from transformers import SiglipVisionModel

    return SiglipVisionModel(config)


def _load_siglip(name: str) -> nn.Module:
    from transformers import SiglipVisionModel

    return SiglipVisionModel.from_pretrained(name)


def _whisper(config: Any) -> nn.Module:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(config)


def _load_whisper(name: str) -> nn.Module:
    from transformers import WhisperModel

    encoder: nn.Module = WhisperModel.from_pretrained(name).encoder
    return encoder


_TEXT = ("input_ids", "attention_mask")
_BERT = Family("text", ("encoder.layer",), inputs=_TEXT, pooler=True)
_CLIP = Family("vision", ("encoder.layers", "vision_model.encoder.layers"), make=_clip, load=_load_clip)
_SIGLIP = Family(
    "vision",
    ("encoder.layers", "vision_model.encoder.layers"),
    ("post_layernorm", "vision_model.post_layernorm"),
    make=_siglip,
    load=_load_siglip,
)
#: ``model_type`` of a config -> where its parts are.
FAMILIES: dict[str, Family] = {
    "vit": Family("vision", ("encoder.layer", "layers"), ("layernorm",), pooler=True),
    "dinov2": Family("vision", ("encoder.layer", "layers"), ("layernorm",)),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "audio-spectrogram-transformer": Family(
        "audio", ("encoder.layer", "layers"), ("layernorm",), inputs=("input_values",)
    ),
    "wav2vec2": Family("audio", ("encoder.layers",), inputs=("input_values",)),
    "whisper": Family(
        "audio", ("layers",), ("layer_norm",), inputs=("input_features",), make=_whisper, load=_load_whisper
    ),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": Family("text", ("transformer.layer",), inputs=_TEXT),
    "cl_signal": Family("signal", ("layers",), ("norm",), inputs=("values",), make=SignalEncoder),
}


def family_of(config: PretrainedConfig, where: str = "encoders") -> Family:
    """The entry of an encoder's family.

    Args:
        config: The encoder's config.
        where: Place for the message.

    Raises:
        CompatibilityError: If there is none.
    """
    kind = str(config.model_type)
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        what = f"is of the type {kind!r}, which cannot be cut into blocks."
        fix = f"{nearest(kind, FAMILIES)} Known types: {known}. Or add one to `crossmodal.encoders.FAMILIES`.".strip()
        raise CompatibilityError(Problem(where, what, fix))
    return FAMILIES[kind]


def config_of(given: Mapping[str, Any]) -> PretrainedConfig:
    """The config object of an encoder from its plain form.

    Args:
        given: As ``config.json`` of the encoder: ``model_type`` and its fields.

    Raises:
        CompatibilityError: If the type is unknown, or a field has a wrong value.
    """
    values = {key: value for key, value in given.items() if key != "model_type"}
    kind = str(given.get("model_type", ""))
    try:
        if kind == SignalConfig.model_type:
            return SignalConfig(**values)
        config: PretrainedConfig = AutoConfig.for_model(kind, **values)
    except (ValueError, TypeError) as error:
        known = ", ".join(FAMILIES)
        what = f"cannot be made: {' '.join(str(error).split())[:300]}"
        raise CompatibilityError(Problem("encoders", what, f"`model_type` is one of {known}.")) from error
    if hasattr(config, "vision_config") and kind in ("clip", "siglip"):
        return config.vision_config
    return config


def config_problems(given: Mapping[str, Any], where: str) -> list[Problem]:
    """Fields of a config that its type does not have, which Transformers would keep and not read, and wrong sizes.

    Args:
        given: See `config_of`; its type is known.
        where: YAML path for the messages.
    """
    config = config_of(given)
    kind = str(given["model_type"])
    whole = SignalConfig() if kind == SignalConfig.model_type else AutoConfig.for_model(kind)
    found = _unknown_fields({k: v for k, v in given.items() if k != "model_type"}, whole, where)
    if isinstance(config, SignalConfig):
        found += config.value_problems(where)
    if found:
        return found
    try:
        with torch.device("meta"):
            make_encoder(config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError, KeyError) as error:
        what = f"makes no encoder: {' '.join(str(error).split())[:300]}"
        found.append(Problem(where, what, "Correct its fields."))
    return found


#: What a ``config.json`` may hold for any type, and a config without it does not show.
_OF_EVERY_CONFIG = frozenset({"architectures", "dtype", "torch_dtype", "num_labels", "id2label", "label2id"})


def _unknown_fields(given: Mapping[str, Any], config: PretrainedConfig, where: str) -> list[Problem]:
    """Names that are neither in a config of this type, nor an argument of it, nor another name of a field."""
    made = type(config)
    known = {*config.to_dict(), *inspect.signature(made.__init__).parameters, *config.attribute_map}
    known |= {name for name in vars(config) if not name.startswith("_")} - {"self", "kwargs"}
    found = []
    for key, value in given.items():
        part = getattr(config, key, None)
        if key not in known and key not in _OF_EVERY_CONFIG and not key.startswith("_"):
            fix = f"{nearest(key, sorted(known))} Remove it otherwise.".strip()
            found.append(Problem(f"{where}.{key}", f"is no field of the config of {config.model_type!r}.", fix))
        elif isinstance(part, PretrainedConfig) and isinstance(value, Mapping):
            found += _unknown_fields(value, part, f"{where}.{key}")
    return found


def is_reserved(name: str) -> bool:
    """Whether a modality cannot have a name: PyTorch's tables of modules use it for themselves (`values`, `train`)."""
    return name in ("id", "label", "present") or hasattr(nn.ModuleDict(), name)


def plain_config(config: PretrainedConfig) -> dict[str, Any]:
    """An encoder's config in its plain form, see `config_of`, without the place and the dtype that it was loaded from."""
    values = {**config.to_dict(), "model_type": config.model_type}
    return {key: value for key, value in values.items() if key not in ("_name_or_path", "dtype", "torch_dtype")}


def make_encoder(config: PretrainedConfig) -> nn.Module:
    """An encoder with new weights, drawn from PyTorch's generator.

    Args:
        config: Its config.
    """
    family = family_of(config)
    if family.make is not None:
        return family.make(config)
    more = {"add_pooling_layer": False} if family.pooler else {}
    return AutoModel.from_config(config, **more)


def load_encoder(name: str) -> nn.Module:
    """An encoder with its weights in fp32, whatever its checkpoint has: the parts that are trained on top are in fp32.

    Args:
        name: Folder or hub name.

    Raises:
        CompatibilityError: If its family is not known.
    """
    family = family_of(AutoConfig.from_pretrained(name), name)
    if family.load is not None:
        return family.load(name).float()
    more = {"add_pooling_layer": False} if family.pooler else {}
    encoder: nn.Module = AutoModel.from_pretrained(name, **more)
    return encoder.float()


class _Reached(Exception):
    """The first layer was reached; carries its inputs."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.args_of_layer, self.kwargs_of_layer = args, kwargs


def _reach(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise _Reached(args, kwargs)


@dataclass
class State:
    """An encoder in the middle of its forward.

    Attributes:
        hidden: (rows, tokens, width); of several frames per sample, the tokens of all of them.
        mask: (rows, tokens) bool, which tokens are part of the input.
        frames: Frames per sample.
        args: Further positional inputs of the layers.
        kwargs: Further inputs of the layers.
    """

    hidden: Tensor
    mask: Tensor
    frames: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class BlockedEncoder(nn.Module):
    """A frozen encoder, cut into blocks.

    Args:
        encoder: The encoder; its parameters are frozen and it stays in evaluation mode.
        blocks: Number of blocks; the layers are shared among them as evenly as possible.
        name: Its modality, for messages.

    Raises:
        CompatibilityError: If its family is not known, or it has fewer layers than blocks.
    """

    def __init__(self, encoder: nn.Module, blocks: int, name: str = "encoders") -> None:
        super().__init__()
        self.encoder: Any = encoder
        config: Any = encoder.config
        self.family = family_of(config, name)
        self.width = int(getattr(config, "hidden_size", None) or config.d_model)
        layers = self._layers()
        if len(layers) < blocks:
            what = f"has {len(layers)} layers, which cannot be cut into {blocks} blocks."
            raise CompatibilityError(Problem(f"encoder '{name}'", what, "Lower `classifier.blocks`."))
        bounds = [round(i * len(layers) / blocks) for i in range(blocks + 1)]
        self.blocks = [range(a, b) for a, b in pairwise(bounds)]
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> BlockedEncoder:
        """A frozen encoder has no training mode: no dropout, no masking of the input."""
        return super().train(False)

    def _place(self, places: tuple[str, ...]) -> Any:
        for place in places:
            try:
                return self.encoder.get_submodule(place)
            except AttributeError:
                continue
        what = f"has none of {', '.join(places)}, so that its layers cannot be found."
        fix = "Use a supported version of Transformers."
        raise CompatibilityError(Problem(type(self.encoder).__name__, what, fix))

    def _layers(self) -> Any:
        return self._place(self.family.layers)

    def begin(self, inputs: Mapping[str, Tensor]) -> State:
        """Run up to the first layer, without gradients.

        Args:
            inputs: The encoder's inputs; pixel values may be (rows, frames, channels, height, width).
        """
        frames = 1
        dtype = next(self.encoder.parameters()).dtype  # of an export in a 16-bit type, not that of the inputs
        given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        pixels = given.get("pixel_values")
        if pixels is not None and pixels.dim() == 5:
            frames = pixels.shape[1]
            given["pixel_values"] = pixels.flatten(0, 1)
        handle = self._layers()[0].register_forward_pre_hook(_reach, with_kwargs=True)
        try:
            with torch.no_grad():
                self.encoder(**given)
        except _Reached as reached:
            args, kwargs = reached.args_of_layer, dict(reached.kwargs_of_layer)
        finally:
            handle.remove()
        hidden = args[0] if args else kwargs.pop("hidden_states")
        hidden = self._together(hidden, frames)
        mask = given.get("attention_mask")
        if mask is None or self.family.kind != "text":
            mask = torch.ones(hidden.shape[:2], device=hidden.device)
        return State(hidden, mask.bool(), frames, tuple(args[1:]), kwargs)

    @staticmethod
    def _together(hidden: Tensor, frames: int) -> Tensor:
        return hidden.unflatten(0, (-1, frames)).flatten(1, 2) if frames > 1 else hidden

    @staticmethod
    def _apart(hidden: Tensor, frames: int) -> Tensor:
        return hidden.unflatten(1, (frames, -1)).flatten(0, 1) if frames > 1 else hidden

    def advance(self, state: State, block: int) -> None:
        """Run one block; changes the state.

        Args:
            state: From `begin`.
            block: Number of the block, from 0.
        """
        hidden, layers = self._apart(state.hidden, state.frames), self._layers()
        for number in self.blocks[block]:
            found = layers[number](hidden, *state.args, **state.kwargs)
            hidden = found if isinstance(found, Tensor) else found[0]
        state.hidden = self._together(hidden, state.frames)

    def finish(self, state: State) -> Tensor:
        """What the encoder's own forward returns as the last hidden state: (rows, tokens, width)."""
        norm = self.family.norm
        if self.encoder.config.model_type == "wav2vec2" and self.encoder.config.do_stable_layer_norm:
            norm = ("encoder.layer_norm",)
        return self._place(norm)(state.hidden) if norm else state.hidden
