"""Strict building of dataclasses out of YAML mappings: unknown keys, wrong types and wrong values become problems."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from .errors import Problem


T = TypeVar("T")

_MISSING = dataclasses.MISSING
#: What an option may be declared as, and what a list then becomes.
LISTS: dict[Any, Any] = {
    list: list, tuple: tuple, Sequence: tuple, Iterable: tuple, Collection: tuple, set: set, Set: frozenset, frozenset: frozenset,
}  # fmt: skip
MAPPINGS = (dict, Mapping, MutableMapping)
_SCALARS = (bool, int, float, str, Path, type(None))
_SUPPORTED = "bool, int, float, str, Path, Literal, list, tuple, Sequence, set, dict, a dataclass, and unions of these"
_SHOWN = 200  # characters of a value in a message


def option(
    default: Any = _MISSING,
    *,
    help: str,
    factory: Any = _MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Any:
    """A dataclass field with the text that the docs and the errors show.

    Args:
        default: The default value; leave out for a required key.
        help: One sentence on what the key does and when to change it.
        factory: A default factory, for mutable defaults.
        minimum: The smallest allowed number.
        maximum: The largest allowed number.
        aliases: Other words for a value; records show the value itself (`resolve_aliases`).
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "aliases": aliases or {}}
    if factory is not _MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    if default is _MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def nearest(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` or an empty string: one slip in every four characters at most, or a name cut short."""
    word = str(word)
    slips = {name: _slips(word, name) for name in map(str, known)}
    # A word of one or two letters is near to too many names.
    near = [name for name, count in slips.items() if count <= max(1, len(word) // 4) and len(word) > 2]
    near = near or [name for name in slips if len(word) > 3 and name.startswith(word)]
    return f"Did you mean '{min(near, key=slips.__getitem__)}'?" if near else ""


def _slips(word: str, name: str) -> int:
    """How many letters were added, left out, mistaken or swapped with their neighbour (optimal string alignment)."""
    if abs(len(word) - len(name)) > max(1, len(word) // 4):
        return len(word) + len(name)  # out of reach, whatever the letters are
    before: list[int] = []
    last = list(range(len(name) + 1))
    for i, letter in enumerate(word, start=1):
        row = [i]
        for j, other in enumerate(name, start=1):
            best = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == name[j - 2] and word[i - 2] == other:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before, last = last, row
    return last[-1]


def shown(value: object) -> str:
    """A value as messages show it: its ``repr``, cut where it is long; whole numbers may be too long to be written."""
    try:
        text = repr(value)
    except ValueError:
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def unknown_key(where: str, key: object, known: Iterable[str]) -> Problem:
    """The problem of a key that does not exist, with the nearest one and all known ones."""
    known = sorted(known)
    hint = nearest(str(key), known)
    return Problem(f"{where}.{key}", "is not a known key.", f"{hint} Known keys: {', '.join(known)}.".strip())


def check_value(value: Any, hint: Any, where: str, problems: list[Problem]) -> Any:
    """Return ``value`` as the annotated type, or record a problem and return it unchanged.

    Understands bool, int, float, str, ``Literal``, unions, ``list``, ``tuple[x, ...]``, ``dict`` and dataclasses; ``Path``
    as a text; ``Sequence`` and sets as lists.
    """
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint in (Any, object):
        return value
    if origin is Literal:
        if value not in args:
            names = ", ".join(map(repr, args))
            hint = nearest(value if isinstance(value, str) else shown(value), map(str, args))
            problems.append(Problem(where, f"is {shown(value)}.", f"{hint} Use one of {names}.".strip()))
        return value
    if origin in (Union, types.UnionType):
        return _check_union(value, args, where, problems)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            problems.append(Problem(where, f"is {shown(value)}.", "Give a mapping of keys and values."))
            return value
        return build(hint, value, where, problems)
    if origin in LISTS:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple, set, frozenset)):
            problems.append(Problem(where, f"is {shown(value)}.", "Give a list."))
            return value
        item_hint = args[0] if args else Any
        found = [check_value(item, item_hint, f"{where}[{i}]", problems) for i, item in enumerate(values)]
        try:
            return LISTS[origin](found)
        except TypeError:  # an entry that no set can hold
            problems.append(Problem(where, f"is {shown(value)}.", "Give a list of texts or numbers."))
            return value
    if origin in MAPPINGS:
        if not isinstance(value, Mapping):
            problems.append(Problem(where, f"is {shown(value)}.", "Give a mapping of keys and values."))
            return value
        item_hint = args[1] if args else Any
        return {str(key): check_value(item, item_hint, f"{where}.{key}", problems) for key, item in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint not in _SCALARS:
        what = f"is declared as `{_type_name(hint)}`, which no value can be checked against."
        problems.append(Problem(where, what, f"In the code, use one of {_SUPPORTED}."))
        return value
    return _check_scalar(value, hint, where, problems)


def _check_union(value: Any, args: tuple[Any, ...], where: str, problems: list[Problem]) -> Any:
    if value is None and type(None) in args:
        return None
    tried: list[list[Problem]] = []
    for arg in args:
        if arg is type(None):
            continue
        attempt: list[Problem] = []
        result = check_value(value, arg, where, attempt)
        if not attempt:
            return result
        tried.append(attempt)
    problems.extend(tried[0])
    return value


def _check_scalar(value: Any, hint: Any, where: str, problems: list[Problem]) -> Any:
    if hint is float and not isinstance(value, bool) and isinstance(value, (str, int, float)):
        try:
            number = float(value)  # YAML 1.1 reads 1e-4 as a string
        except ValueError:
            pass
        except OverflowError:
            problems.append(Problem(where, f"is {shown(value)}.", "Give a smaller number."))
            return value
        else:
            if not math.isfinite(number):
                problems.append(Problem(where, f"is {shown(value)}.", "Give a finite number."))
            return number
    if isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    problems.append(Problem(where, f"is {shown(value)}.", f"Give {names.get(hint, getattr(hint, '__name__', hint))}."))
    return value


def resolve_aliases(cls: type[Any], mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the values that other words stand for.

    Args:
        cls: A dataclass whose fields were made with `option`.
        mapping: The content of the YAML.
    """
    aliases = {field.name: field.metadata.get("aliases", {}) for field in dataclasses.fields(cls)}
    return {
        key: aliases.get(key, {}).get(value, value) if isinstance(value, str) else value
        for key, value in mapping.items()
    }


def defaults(cls: type[Any]) -> dict[str, Any]:
    """The default of every key of a dataclass that has one; nested dataclasses as mappings.

    Args:
        cls: A dataclass.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.default is not _MISSING:
            found[field.name] = field.default
        elif field.default_factory is not _MISSING:
            found[field.name] = field.default_factory()
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        for name, value in found.items()
    }


def build(cls: type[T], mapping: Mapping[str, Any], where: str, problems: list[Problem]) -> T | None:
    """Build dataclass ``cls`` from a mapping; everything that is wrong is appended to ``problems``.

    A dataclass with a method ``value_problems(where)`` is asked for what its values say together.

    Args:
        cls: A dataclass whose fields were made with `option`. A class attribute ``REMOVED`` maps keys that it had once
            to a sentence on what replaces them.
        mapping: The content of the YAML.
        where: The YAML path of the mapping.
        problems: Collects what is wrong.

    Returns:
        The dataclass, or None if a problem was found in it.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    before = len(problems)
    values: dict[str, Any] = {}
    for key, value in resolve_aliases(cls, mapping).items():
        if key not in fields:
            moved = getattr(cls, "REMOVED", {}).get(key)
            gone = Problem(f"{where}.{key}", "is no longer an option.", moved) if moved else None
            problems.append(gone or unknown_key(where, key, fields))
            continue
        found = len(problems)
        values[key] = check_value(value, hints[key], f"{where}.{key}", problems)
        if len(problems) == found:
            problems.extend(_outside(values[key], fields[key].metadata, f"{where}.{key}"))
    for name, field in fields.items():
        if name not in mapping and field.default is _MISSING and field.default_factory is _MISSING:
            problems.append(Problem(f"{where}.{name}", "is missing.", str(field.metadata.get("help", ""))))
    if len(problems) > before:
        return None
    made = cls(**values)
    own = getattr(made, "value_problems", None)
    if callable(own):
        problems.extend(own(where))
    return made if len(problems) == before else None


def _outside(value: Any, metadata: Mapping[str, Any], where: str) -> list[Problem]:
    """A number beyond the bounds of its key."""
    minimum, maximum = metadata.get("minimum"), metadata.get("maximum")
    if not isinstance(value, (int, float)):
        return []
    if minimum is not None and value < minimum:
        return [Problem(where, f"is {shown(value)}.", f"The smallest allowed value is {minimum}.")]
    if maximum is not None and value > maximum:
        return [Problem(where, f"is {shown(value)}.", f"The largest allowed value is {maximum}.")]
    return []


def json_value(value: Any) -> Any:
    """What `json.dumps` writes for a value of an option that it does not know: its ``default``."""
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)


def describe(cls: type[Any], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Rows ``(key, type, default, help)`` of a dataclass, nested ones included; the docs are made from them."""
    rows = []
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        key = f"{prefix}{field.name}"
        nested = [a for a in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(a) and isinstance(a, type)]
        if nested:
            rows.extend(describe(nested[0], f"{key}."))
            continue
        if field.default is not _MISSING:
            default = repr(field.default)
        elif field.default_factory is not _MISSING:
            default = repr(field.default_factory())
        else:
            default = "required"
        rows.append((key, _type_name(hint), default, str(field.metadata.get("help", ""))))
    return rows


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " \\| ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join("nothing" if a is type(None) else _type_name(a) for a in typing.get_args(hint))
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")
