"""What of a run may leave the machine: the lists of `cl_plugins.records.told`, and no name of anything that is here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ..base.secrets import is_secret, masked
from ..contract.host import names_encoders
from ..records.told import LEFT, base_text, told_block, told_keys, told_options
from .record import FREE, PATHS


#: Beginnings of the keys that another site needs in its own recipe: LoRA, prompts, pictures, precision.
_SHARED = re.compile(
    r"template$|stage$|finetuning_type$|lora_|loraplus_|additional_target$|use_rslora$|freeze_|cutoff_len$|image_|video_|audio_"
    r"|mask_history$|train_on_prompt$|enable_thinking$|quantization_|double_quantization$|bf16$|fp16$|flash_attn$|default_system$"
)


def base_name(base: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint of a base whose name says nothing about this machine: of a path the last part.

    A base without a commit is a folder, wherever this process was started.
    """
    if base.get("name") is None:
        return {**base}
    name = short(str(base["name"]))
    if not names_encoders(name):
        name = base_text(name) if base.get("commit") else _last(name)
    return {**base, "name": name}


def short(text: str) -> str:
    """Of an absolute or relative path of this machine the last part; other texts as they are."""
    return _last(text) if _is_path(text) or is_here(text) else text


def _is_path(text: str) -> bool:
    """Whether a text has the form of a path, wherever it is read."""
    return text.startswith(("/", "~", "./", "../", "\\")) or re.match(r"[A-Za-z]:[\\/]", text) is not None


def _last(path: str) -> str:
    return PurePath(path.replace("\\", "/")).name


def is_here(text: str) -> bool:
    """Whether a text names a file or folder, seen from where this process was started."""
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such user
        return False


def shareable(value: Any) -> Any:
    """A copy of plain data in which of every path only the last part is left, and credentials are masked.

    Hashes of test sets are made over it, so it says the same of the same data in every version.
    """
    if isinstance(value, Mapping):
        return {str(key): "***" if is_secret(str(key)) else shareable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(item) for item in value]
    return _last(value) if isinstance(value, str) and _is_path(value) else value


def shared_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method as another site may read them: `LEFT` stands for what names a place.

    Args:
        options: The options by name.
    """
    found: dict[str, Any] = _without_places(told_options(options))
    return found


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return LEFT if isinstance(value, str) and is_here(value) else value


def shared_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe as another site may read it: settings, without places, data, credentials and logging.

    Args:
        recipe: ``recipe`` of ``run.json``.
    """
    given = masked(recipe)
    left = {key for key in (*FREE, *PATHS) if key != "model_name_or_path"}
    keys = {key: value for key, value in given.items() if key not in left and key != "cl"}
    if isinstance(keys.get("model_name_or_path"), str):
        keys["model_name_or_path"] = short(keys["model_name_or_path"])
    block = dict(given.get("cl") or {})
    if isinstance(block.get("method"), Mapping):
        block["method"] = {**shared_options(block["method"]), "name": block["method"].get("name")}
    return {**told_keys(keys), "cl": told_block(block)}


def shared_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe that the recipe of the next site has to repeat.

    Args:
        recipe: ``recipe`` of ``run.json``.
    """
    whole = shared_recipe(recipe)
    return {key: value for key, value in whole.items() if _SHARED.match(key) and value is not None}
