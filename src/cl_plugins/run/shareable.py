"""What of a recipe may leave the machine: settings, and no place, no credential and no name of a data set's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ..base.secrets import is_secret, masked
from .record import FREE, PATHS


_PLACE = re.compile(r"(?:^|_)(?:dir|path|file|folder|home|cache|url|endpoint|proxy|user|project|name)$")
_KEPT = frozenset({"flash_attn", "optim"})
#: Beginnings of the keys that another site needs in its own recipe: LoRA, prompts, pictures, precision.
_SHARED = re.compile(
    r"template$|stage$|finetuning_type$|lora_|loraplus_|additional_target$|use_rslora$|freeze_|cutoff_len$|image_|video_|audio_"
    r"|mask_history$|train_on_prompt$|enable_thinking$|quantization_|double_quantization$|bf16$|fp16$|flash_attn$|default_system$"
)


def base_name(base: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint of a base whose name says nothing about this machine: of a path the last part."""
    return {**base, **({"name": short(str(base["name"]))} if base.get("name") is not None else {})}


def short(text: str) -> str:
    """Of an absolute or relative path of this machine the last part; other texts as they are."""
    if text.startswith(("/", "~", "./", "../", "\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return PurePath(text.replace("\\", "/")).name
    return text


def shareable(value: Any) -> Any:
    """A copy of plain data in which of every path only the last part is left, and credentials are masked."""
    if isinstance(value, Mapping):
        return {str(key): "***" if is_secret(str(key)) else shareable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(item) for item in value]
    return short(value) if isinstance(value, str) else value


def shared_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe as another site may read it: without credentials, folders and what only concerns logging.

    Args:
        recipe: ``recipe`` of ``run.json``.
    """
    found: dict[str, Any] = {}
    for key, value in masked(recipe).items():
        if key == "cl":
            left = ("only", "carry_from", "stop_after", "restart", "keep")
            found[key] = shareable({k: v for k, v in value.items() if k not in left})
        elif key == "model_name_or_path":
            found[key] = short(str(value))
        elif key in _KEPT or not (key in (*FREE, *PATHS) or is_secret(key) or _PLACE.search(key)):
            found[key] = shareable(value)
    return found


def shared_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe that the recipe of the next site has to repeat.

    Args:
        recipe: ``recipe`` of ``run.json``.
    """
    whole = shared_recipe(recipe)
    return {key: value for key, value in whole.items() if _SHARED.match(key) and value is not None}
