"""Load a stream: by a registered name, from a stream file, or from a mapping inside the recipe.

The built-in streams are files of this package; other packages register theirs under ``cl_plugins.streams``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RecipeError
from ..base.outside import YAML_LIMIT, parse_yaml, read_text
from ..base.registry import Entry, NotUsable, Registry
from ..base.schema import build
from .model import Stream


def _builtin() -> dict[str, Any]:
    """Return the name and the file of every stream that ships with the package."""
    folder = resources.files(__package__) / "builtin"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def builtin_streams() -> dict[str, str]:
    """Return the name and the YAML text of every stream that ships with the package."""
    return {name: file.read_text(encoding="utf-8") for name, file in _builtin().items()}


def read_mapping(text: str, where: str, problems: list[Problem]) -> Mapping[str, Any] | None:
    """Parse YAML text that must hold a mapping; record a problem otherwise."""
    from yaml import YAMLError

    try:
        value = parse_yaml(text)
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist, an alias bomb
        problems.append(Problem(where, f"is not valid YAML: {' '.join(str(error).split())}.", "Fix the file."))
        return None
    if not isinstance(value, Mapping):
        problems.append(Problem(where, "does not contain a mapping.", "A stream file contains `name:` and `tasks:`."))
        return None
    return value


def _check(name: str, value: Any, distribution: str) -> Stream:
    """Accept a mapping, or a file (anything with ``read_text``) that holds one, if its stream has the registered name."""
    problems: list[Problem] = []
    mapping = value
    if not isinstance(value, Mapping):
        if not hasattr(value, "read_text"):
            raise NotUsable(f"{type(value).__name__} is neither a mapping nor a file")
        mapping = read_mapping(value.read_text(encoding="utf-8"), str(value), problems)
    stream = build(Stream, mapping, name, problems) if mapping is not None else None
    if problems or stream is None:
        raise NotUsable(" ".join(map(str, problems)))
    if stream.name != name:
        raise NotUsable(f"the stream calls itself {stream.name!r}")
    return stream


#: Every stream that has a name.
STREAMS: Registry[Stream] = Registry(
    "cl_plugins.streams", "stream", _check, own=_builtin(), hint="Or give the path of a stream file."
)


def stream_entries() -> list[Entry[Stream]]:
    """Return every registered stream with its distribution; broken ones carry their error.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    return STREAMS.entries()


def load_stream(spec: str | Mapping[str, Any], *, where: str = "cl.stream") -> Stream:
    """Load a stream and check it.

    Args:
        spec: Name of a registered stream, path of a stream file, or the mapping itself.
        where: YAML path for the messages.

    Raises:
        RecipeError: With every problem of the stream.
        CompatibilityError: If two packages register a stream of the same name.
    """
    problems: list[Problem] = []
    if isinstance(spec, Mapping):
        mapping: Mapping[str, Any] | None = spec
    elif Path(spec).suffix in {".yaml", ".yml", ".json"} or os.path.isfile(spec):
        mapping = _read_file(str(spec), where, problems)
        where = str(spec)
    else:
        return STREAMS.get(str(spec), where=where)
    stream = build(Stream, mapping, where, problems) if mapping is not None else None
    if problems or stream is None:
        raise RecipeError(problems)
    return stream


def _read_file(name: str, where: str, problems: list[Problem]) -> Mapping[str, Any] | None:
    """Read a stream file; record a problem if that is not possible."""
    try:
        text = read_text(Path(name), YAML_LIMIT)
    except FileNotFoundError:
        fix = f"Paths are relative to the folder you start from ({Path.cwd()})."
        problems.append(Problem(where, f"stream file {name!r} does not exist.", fix))
        return None
    except (OSError, ValueError) as error:  # a folder, no permission, not UTF-8, a name that no file can have
        problems.append(
            Problem(where, f"stream file {name!r} cannot be read ({error}).", "Correct the path or the file.")
        )
        return None
    return read_mapping(text, name, problems)
