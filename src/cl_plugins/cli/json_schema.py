"""``cl-plugins docs schema``: the recipe as a JSON schema, from which editors complete and check the ``cl:`` block.

The schema is generated from the dataclasses that check a recipe, so that it accepts what they accept. Draft 7, which
`yaml-language-server` understands. Keys of LLaMA-Factory are allowed freely.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

from ..base.schema import LISTS, MAPPINGS, json_value


DRAFT = "http://json-schema.org/draft-07/schema#"
# A number as YAML 1.1 may give it: `1e-4` is a string there.
_NUMBER = r"^\s*[-+]?([0-9][0-9_]*)?\.?[0-9]*([eE][-+]?[0-9]+)?\s*$"
_SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
}


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe: LLaMA-Factory's keys, and one key ``cl``."""
    from ..config import CLBlock
    from ..streams import Stream, Task, stream_entries
    from ..streams.probes import HARNESSES

    stream, task = of_dataclass(Stream), of_dataclass(Task)
    _tasks(stream["properties"]["tasks"])
    task["properties"]["scorer"] = _suggested(task["properties"]["scorer"], _scorers(reference=False))
    task["properties"]["peer_scorer"] = _suggested(task["properties"]["peer_scorer"], _scorers(reference=True))
    block = of_dataclass(CLBlock)
    probes = block["properties"]["eval"]["properties"]["probes"]
    probe = probes["items"]
    probe["properties"]["scorer"] = _suggested(probe["properties"]["scorer"], _scorers(reference=False))
    harness = {"type": "string", "pattern": f"^({'|'.join(HARNESSES)}):"}
    one = {"anyOf": [harness, probe]}
    block["properties"]["eval"]["properties"]["probes"] = {
        **{key: value for key, value in probes.items() if key in ("description", "default")},
        "anyOf": [harness, {"type": "array", "items": one}],
    }
    described = {key: value for key, value in block["properties"]["stream"].items() if key == "description"}
    block["properties"]["stream"] = {
        **described,
        "anyOf": [
            {"enum": [entry.name for entry in stream_entries() if entry.value is not None]},
            {"type": "string"},
            {"$ref": "#/definitions/stream"},
        ],
    }
    block["properties"]["method"] = {"description": block["properties"]["method"]["description"], **_method()}
    return {
        "$schema": DRAFT,
        "title": "LLaMA-Factory recipe with a cl block",
        "type": "object",
        "properties": {"cl": {"description": "Continual learning with cl_plugins.", **block}},
        "definitions": {"stream": stream, "task": task},
    }


def stream_schema() -> dict[str, Any]:
    """The schema of a stream file."""
    definitions = recipe_schema()["definitions"]
    return {"$schema": DRAFT, "title": "Stream of cl_plugins", **definitions["stream"], "definitions": definitions}


def of_dataclass(cls: type[Any]) -> dict[str, Any]:
    """The schema of a mapping that `cl_plugins.base.schema.build` makes into a dataclass.

    Args:
        cls: A dataclass whose fields were made with `option`.
    """
    hints = typing.get_type_hints(cls)
    properties: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        entry = of_type(hints[field.name])
        minimum = field.metadata.get("minimum")
        if minimum is not None:
            _set_minimum(entry, minimum)
        aliases = field.metadata.get("aliases") or {}
        if aliases:
            entry = {"anyOf": [entry, {"enum": sorted(aliases)}]}
        default = _default(field)
        if default is dataclasses.MISSING:
            required.append(field.name)
        else:
            entry["default"] = default
        properties[field.name] = {"description": str(field.metadata.get("help", "")), **entry}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def of_type(hint: Any) -> dict[str, Any]:
    """The schema of a value of an annotated type, as `cl_plugins.base.schema.check_value` takes it."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint in (Any, object):
        return {}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if arg is type(None) else of_type(arg) for arg in args]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return of_dataclass(hint)
    if origin in LISTS:
        item = of_type(args[0]) if args else {}
        whole = {"type": "array", "items": item}
        return {"anyOf": [{"type": "string"}, whole]} if args[:1] == (str,) else whole
    if origin in MAPPINGS:
        return {"type": "object", "additionalProperties": of_type(args[1]) if args else {}}
    if hint is float:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": _NUMBER}]}
    return dict(_SCALARS.get(hint, {}))


def _set_minimum(entry: dict[str, Any], minimum: float) -> None:
    if entry.get("type") in ("integer", "number"):
        entry["minimum"] = minimum
    for option in entry.get("anyOf", ()):
        _set_minimum(option, minimum)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return dataclasses.MISSING
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {}  # the defaults of its keys are listed with them
    if isinstance(value, (set, frozenset, Path)):
        return json_value(value)
    return list(value) if isinstance(value, tuple) else value


def _tasks(entry: dict[str, Any]) -> None:
    """A stream's tasks by reference, at least one."""
    entry.update({"type": "array", "items": {"$ref": "#/definitions/task"}, "minItems": 1})


def _scorers(*, reference: bool) -> list[str]:
    from ..evaluation.scorers import list_reference_scorers, list_scorers

    return list_reference_scorers() if reference else [*list_scorers(), *list_reference_scorers()]


def _suggested(entry: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """A text with words that an editor offers; others are allowed."""
    rest = {key: value for key, value in entry.items() if key in ("description", "default")}
    options = [option for option in entry.get("anyOf", ()) if option.get("type") == "null"]
    return {**rest, "anyOf": [{"enum": words}, {"type": "string"}, *options]}


def _method() -> dict[str, Any]:
    """``cl.method``: the name of a registered method, alone or with the options of that method."""
    from ..methods.registry import list_methods

    titles, rules = {}, []
    for entry in list_methods():
        if entry.value is None:
            continue
        titles[entry.name] = entry.value.title
        options = of_dataclass(entry.value.config_class)
        options["properties"] = {"name": {"const": entry.name}, **options["properties"]}
        rules.append({"if": {"properties": {"name": {"const": entry.name}}, "required": ["name"]}, "then": options})
    name = {
        "description": "Name of the method.",
        "enum": list(titles),
        "enumDescriptions": list(titles.values()),
    }
    options = {"type": "object", "required": ["name"], "properties": {"name": name}, "allOf": rules}
    return {"anyOf": [{key: name[key] for key in ("enum", "enumDescriptions")}, options]}
