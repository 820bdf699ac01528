"""What else of a base decides an answer, next to weights, configuration and the ids of its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..base.files import sha256
from ..base.outside import read_json
from ..generation.decode import GREEDY_RULES


_STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def base_settings(find: Callable[[str], Path | None], folder: Path, *, code: bool) -> dict[str, Any]:
    """Special tokens and rules of generation of a base, independent of how its files are written.

    Answers end at the special tokens, templates put them into prompts, and they are removed from texts. Of
    ``generation_config.json`` only what changes greedy search counts.

    Args:
        find: Gives the path of a file of the base; None if it has no file of that name.
        folder: The base, if it is a folder.
        code: Whether the base's own code is run; then its files count as well.

    Returns:
        ``{"special_tokens": {...}, "generation": {...}, "code": {file: sha256}}``, the last only with ``code``.
    """
    found: dict[str, Any] = {"special_tokens": _special_tokens(find), "generation": _generation(find)}
    if code and folder.is_dir():
        found["code"] = {path.name: sha256(path) for path in sorted(folder.glob("*.py")) if path.is_file()}
    return found


def chat_template(find: Callable[[str], Path | None]) -> Any:
    """The base's own chat template, which LLaMA-Factory uses if a recipe names none; None if it has none.

    Args:
        find: As for `base_settings`.
    """
    file = find(_CHAT_TEMPLATES[0])
    if file is not None:
        return file.read_text(encoding="utf-8")
    own = find(_CHAT_TEMPLATES[1])
    return (_read(own) or _read(find("tokenizer_config.json"))).get("chat_template")


def _read(file: Path | None) -> Mapping[str, Any]:
    """A file of settings; empty if there is none. What cannot be read, Transformers says."""
    try:
        content = read_json(file) if file is not None else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _special_tokens(find: Callable[[str], Path | None]) -> dict[str, Any]:
    """Token name -> text, and all further special tokens under ``more``."""
    given = {**_read(find("special_tokens_map.json")), **_read(find("tokenizer_config.json"))}
    found: dict[str, Any] = {name: next(iter(_texts(given.get(name))), None) for name in _STANDARD}
    more = [value for name, value in given.items() if name.endswith(("_token", "_tokens")) and name not in _STANDARD]
    return {**found, "more": sorted({text for value in more for text in _texts(value)})}


def _texts(value: Any) -> list[str]:
    """The texts of a token, or of a list or mapping of tokens; a token is a text, or a mapping with ``content``."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts(value["content"] if "content" in value else list(value.values()))
    return [text for entry in value for text in _texts(entry)] if isinstance(value, list) else []


def _generation(find: Callable[[str], Path | None]) -> dict[str, Any]:
    given = _read(find("generation_config.json"))
    rules = {name: given.get(name) for name, neutral in GREEDY_RULES.items() if given.get(name) not in neutral}
    return dict(json.loads(json.dumps(rules, sort_keys=True)))
