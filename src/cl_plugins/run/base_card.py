"""What a model card says of the base: its name, its place, its licence."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.outside import MIB, is_regular, parse_yaml, read_text
from ..contract.host import names_encoders


README = "README.md"
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LICENCE = ("license", "license_name", "license_link")


def resolved(name: str) -> str:
    """Where a base is, so that it is found from every folder: a hub's name as it is, a local folder as a whole path."""
    return os.path.abspath(name) if Path(name).exists() else name


def is_local(name: str) -> bool:
    """Whether the name of a base is a folder of a machine and no name on a hub."""
    if names_encoders(name):
        return False
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or Path(name).exists()


def base_licence(name: str) -> dict[str, str]:
    """What the card of a base says of its licence: ``license``, ``license_name`` and ``license_link``, where they are.

    Args:
        name: Folder or hub name of the base; a hub's card is read from the cache.
    """
    path = Path(name) / README
    if not Path(name).exists():
        from transformers.utils import cached_file

        try:
            found = cached_file(name, README, local_files_only=True, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            found = None
        if found is None:
            return {}
        path = Path(found)
    if not is_regular(path):
        return {}
    from yaml import YAMLError

    try:
        front = _FRONT.match(read_text(path, 4 * MIB))
        value = parse_yaml(front.group(1)) if front else None
    except (OSError, ValueError, YAMLError):
        return {}
    if not isinstance(value, Mapping):
        return {}
    return {key: value[key] for key in _LICENCE if isinstance(value.get(key), str)}


def plain(text: Any) -> str:
    """A text of a recipe or stream as a line of Markdown: without markup and line breaks."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", line).replace(r"\_", "_")
