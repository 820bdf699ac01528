"""The configuration of an original LLaVA checkpoint in the words of Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import DataError, Problem
from .files import read_json_object


#: ``model_type`` of LLaVA's code -> that of its language model.
LANGUAGE = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
_TEXT_KEYS = (
    "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size",
    "initializer_range", "intermediate_size", "max_position_embeddings", "mlp_bias", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_scaling", "rope_theta", "sliding_window", "vocab_size",
)  # fmt: skip
_TEXT_NEEDED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
_VISION_KEYS = (
    "attention_dropout", "hidden_act", "hidden_size", "image_size", "initializer_factor", "initializer_range",
    "intermediate_size", "layer_norm_eps", "num_attention_heads", "num_channels", "num_hidden_layers", "patch_size",
    "projection_dim",
)  # fmt: skip
#: What CLIP's configuration says if a key is left out, of those that are needed here.
_VISION_DEFAULTS = {"hidden_size": 768, "image_size": 224, "patch_size": 32, "num_hidden_layers": 12}
_PICTURE_KEYS = (
    "crop_size", "do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std",
    "resample", "rescale_factor", "size",
)  # fmt: skip
_STRATEGY = {"patch": "default", "cls_patch": "full"}
_OTHER = (
    "This command converts LLaVA 1.5 and what is built like it: a CLIP tower, two projector layers, LLaMA or Mistral."
)


@dataclass(frozen=True)
class Layout:
    """What is known about a base before its tensors are read.

    Attributes:
        text: ``text_config``, with the vocabulary of the checkpoint.
        vision: ``vision_config``.
        common: The other keys of ``config.json``, but for the number of the picture's token.
        pictures: ``preprocessor_config.json``.
        own_tower: Whether the checkpoint's own weights of the tower are in use, not those of the tower's folder.
    """

    text: dict[str, Any]
    vision: dict[str, Any]
    common: dict[str, Any]
    pictures: dict[str, Any]
    own_tower: bool

    def config(self, vocabulary: int, picture: int) -> dict[str, Any]:
        """``config.json`` of the converted base.

        Args:
            vocabulary: Rows of the embedding.
            picture: Number of the picture's token.
        """
        text = {**self.text, "vocab_size": vocabulary}
        return {**self.common, "image_token_index": picture, "text_config": text, "vision_config": self.vision}


def read_layout(source: Path, tower: Path) -> Layout:
    """Read the configuration of a LLaVA checkpoint and of its vision tower.

    Args:
        source: Folder of the checkpoint.
        tower: Folder of the CLIP model that is its vision tower. The name of the tower in the checkpoint is not used.

    Raises:
        DataError: With everything that cannot be brought into the layout of Transformers.
    """
    problems: list[Problem] = []
    read: list[dict[str, Any]] = []
    for path in (source / "config.json", tower / "config.json", tower / "preprocessor_config.json"):
        try:
            read.append(read_json_object(path))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    config, clip, pictures = read
    where = str(source / "config.json")
    problems += _language_problems(config, where)
    problems += _picture_problems(config, where)
    vision, found = _vision(clip, str(tower / "config.json"))
    problems += found
    width = config.get("mm_hidden_size")
    if isinstance(width, int) and vision and width != vision["hidden_size"]:
        what = f"is {width}, and the vision tower in {tower} has the width {vision['hidden_size']}."
        problems.append(
            Problem(f"{where}: mm_hidden_size", what, "Give the folder of the tower that it was trained with.")
        )
    layers = vision.get("num_hidden_layers", 0)
    layer = config.get("mm_vision_select_layer")
    if vision and isinstance(layer, int) and not -layers - 1 <= layer <= layers:
        what = f"is {layer}, and the vision tower in {tower} has {layers} layers."
        problems.append(Problem(f"{where}: mm_vision_select_layer", what, "Give the folder of its own tower."))
    if problems:
        raise DataError(problems)
    return _layout(config, vision, pictures)


def _language_problems(config: Mapping[str, Any], where: str) -> list[Problem]:
    """What speaks against the language model of a checkpoint."""
    found = []
    if "text_config" in config:
        what = "has a `text_config`: the checkpoint is in the layout of Transformers already."
        return [Problem(where, what, "Use it as `model_name_or_path`.")]
    kind = config.get("model_type")
    if kind not in LANGUAGE:
        found.append(Problem(f"{where}: model_type", f"is {kind!r}, not {', '.join(map(repr, LANGUAGE))}.", _OTHER))
    for key in _TEXT_NEEDED:
        if not isinstance(config.get(key), int) or isinstance(config.get(key), bool):
            found.append(Problem(f"{where}: {key}", "is missing, or no whole number.", "Download the file again."))
    if config.get("tie_word_embeddings"):
        what = "is true; LLaMA and Mistral have an output layer of their own."
        found.append(Problem(f"{where}: tie_word_embeddings", what, _OTHER))
    if config.get("quantization_config") is not None:
        what = "is given: the weights are quantised."
        found.append(Problem(f"{where}: quantization_config", what, "Give the checkpoint in fp16, bf16 or fp32."))
    return found


def _picture_problems(config: Mapping[str, Any], where: str) -> list[Problem]:
    """What speaks against the way in which a checkpoint sees pictures."""
    found = []
    kind = config.get("mm_projector_type", "linear")
    if kind != "mlp2x_gelu":
        what = f"is {kind!r}; LLaVA in Transformers has two linear layers with a GELU between them (mlp2x_gelu)."
        found.append(Problem(f"{where}: mm_projector_type", what, _OTHER))
    if config.get("mm_use_im_start_end"):
        what = "is true: pictures stand between two more tokens, which LLaVA in Transformers does not have."
        found.append(Problem(f"{where}: mm_use_im_start_end", what, _OTHER))
    ratio = config.get("image_aspect_ratio")
    if ratio not in (None, "pad", "square"):
        what = f"is {ratio!r}; a picture is seen once and whole ('pad', 'square' or nothing)."
        found.append(Problem(f"{where}: image_aspect_ratio", what, _OTHER))
    if config.get("s2"):
        found.append(Problem(f"{where}: s2", "is true: pictures are seen in several sizes.", _OTHER))
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in _STRATEGY:
        what = f"is {feature!r}, not {' or '.join(map(repr, _STRATEGY))}."
        found.append(Problem(f"{where}: mm_vision_select_feature", what, _OTHER))
    layer = config.get("mm_vision_select_layer")
    if not isinstance(layer, int) or isinstance(layer, bool):
        what = "is missing, or no whole number."
        found.append(Problem(f"{where}: mm_vision_select_layer", what, "Download the file again."))
    return found


def _vision(clip: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
    """``vision_config`` of a CLIP, and what is wrong with it."""
    kind = clip.get("model_type")
    inner = clip.get("vision_config") if kind == "clip" else clip
    if kind not in ("clip", "clip_vision_model") or not isinstance(inner, Mapping):
        what = f"is {kind!r}, not 'clip' or 'clip_vision_model'."
        return {}, [
            Problem(f"{where}: model_type", what, "Give the folder of the CLIP model that the base was trained with.")
        ]
    vision = {**_VISION_DEFAULTS, **{key: inner[key] for key in _VISION_KEYS if inner.get(key) is not None}}
    wrong = [key for key in _VISION_DEFAULTS if not isinstance(vision[key], int) or vision[key] < 1]
    problems = [Problem(f"{where}: {key}", "is no positive number.", "Download the file again.") for key in wrong]
    return {} if wrong else {"model_type": "clip_vision_model", **vision}, problems


def _layout(config: Mapping[str, Any], vision: dict[str, Any], pictures: Mapping[str, Any]) -> Layout:
    """The configuration of a base without problems."""
    text = {key: config[key] for key in _TEXT_KEYS if key in config}
    strategy = _STRATEGY[config.get("mm_vision_select_feature", "patch")]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    common = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_seq_length": patches + (strategy == "full"),
        "projector_hidden_act": "gelu",
        "vision_feature_layer": config["mm_vision_select_layer"],
        "vision_feature_select_strategy": strategy,
        "tie_word_embeddings": False,
    }
    seen = {key: pictures[key] for key in _PICTURE_KEYS if key in pictures}
    if config.get("image_aspect_ratio") == "pad":  # to a square in the colour of the mean, before it is resized
        seen |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    else:
        seen |= {"image_processor_type": "CLIPImageProcessor"}
    return Layout(
        text={"model_type": LANGUAGE[config["model_type"]], "tie_word_embeddings": False, **text},
        vision=vision,
        common=common,
        pictures={**seen, "processor_class": "LlavaProcessor"},
        own_tower=bool(config.get("unfreeze_mm_vision_tower")),
    )
