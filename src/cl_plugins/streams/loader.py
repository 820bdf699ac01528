"""Where a stream comes from: a built-in name, a stream file, or a mapping inside the recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RecipeError
from ..base.outside import YAML_LIMIT, parse_yaml, read_text
from ..base.schema import build, nearest
from .model import Stream


def builtin_streams() -> dict[str, str]:
    """Name -> YAML text of every stream that ships with the package."""
    folder = resources.files(__package__) / "builtin"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = entry.read_text(encoding="utf-8")
    return found


def read_mapping(text: str, where: str, problems: list[Problem]) -> Mapping[str, Any] | None:
    """Parse YAML text that must hold a mapping; record a problem otherwise."""
    from yaml import YAMLError

    try:
        value = parse_yaml(text)
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist, an alias bomb
        problems.append(Problem(where, f"is not valid YAML: {' '.join(str(error).split())}.", "Mend the file."))
        return None
    if not isinstance(value, Mapping):
        problems.append(Problem(where, "does not hold a mapping.", "A stream file holds `name:` and `tasks:`."))
        return None
    return value


def load_stream(spec: str | Mapping[str, Any], *, where: str = "cl.stream") -> Stream:
    """Load a stream and check it.

    Args:
        spec: Name of a built-in stream, path of a stream file, or the mapping itself.
        where: YAML path for the messages.

    Raises:
        RecipeError: With every problem of the stream.
    """
    problems: list[Problem] = []
    mapping: Mapping[str, Any] | None
    if isinstance(spec, Mapping):
        mapping = spec
    else:
        mapping = _find(str(spec), where, problems)
        if mapping is not None and str(spec) not in builtin_streams():
            where = str(spec)
    stream = build(Stream, mapping, where, problems) if mapping is not None else None
    if stream is not None:
        problems.extend(stream.problems(where))
    if problems or stream is None:
        raise RecipeError(problems)
    return stream


def _find(name: str, where: str, problems: list[Problem]) -> Mapping[str, Any] | None:
    path = Path(name)
    if path.suffix in {".yaml", ".yml", ".json"} or os.path.isfile(name):
        try:
            text = read_text(path, YAML_LIMIT)
        except FileNotFoundError:
            fix = f"Paths are relative to the folder you start from ({Path.cwd()})."
            problems.append(Problem(where, f"stream file {name!r} does not exist.", fix))
            return None
        except (OSError, ValueError) as error:  # a folder, no permission, not UTF-8, a name that no file can have
            problems.append(
                Problem(where, f"stream file {name!r} cannot be read ({error}).", "Mend the path or the file.")
            )
            return None
        return read_mapping(text, name, problems)
    known = builtin_streams()
    if name in known:
        return read_mapping(known[name], name, problems)
    fix = f"{nearest(name, known)} Built-in streams: {', '.join(known) or 'none'}; or give the path of a stream file."
    problems.append(Problem(where, f"there is no stream called {name!r}.", fix.strip()))
    return None
