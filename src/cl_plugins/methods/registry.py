"""Methods are found through entry points, ours and third parties' alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..base.errors import CompatibilityError, Problem, RecipeError
from ..base.schema import build, nearest
from ..contract.method import Method


GROUP = "cl_plugins.methods"


@dataclass(frozen=True)
class MethodEntry:
    """One registered name.

    Attributes:
        name: Name used in ``cl.method.name``.
        distribution: The package that registers it.
        method: The class, or None if it could not be imported.
        error: Why it could not be imported.
    """

    name: str
    distribution: str
    method: type[Method] | None
    error: str | None = None


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown distribution"


@cache
def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = found.get(entry.name)
        if other is not None and (other.value != entry.value or _distribution(other) != _distribution(entry)):
            what = f"is registered by {_distribution(other)} ({other.value}) and by {_distribution(entry)} ({entry.value})."
            raise CompatibilityError(Problem(f"method '{entry.name}'", what, "Uninstall or rename one of them."))
        found[entry.name] = entry
    return found


def _load(entry: EntryPoint) -> MethodEntry:
    try:
        method = entry.load()
    except Exception as error:  # a third party's broken import must not take the others down
        return MethodEntry(entry.name, _distribution(entry), None, f"{type(error).__name__}: {error}")
    if not (isinstance(method, type) and issubclass(method, Method)):
        return MethodEntry(
            entry.name, _distribution(entry), None, f"{entry.value} is not a subclass of cl_plugins.methods.Method"
        )
    own = getattr(method, "name", None)
    if own != entry.name:
        return MethodEntry(entry.name, _distribution(entry), None, f"the class calls itself {own!r}")
    return MethodEntry(entry.name, _distribution(entry), method)


def method_names() -> tuple[str, ...]:
    """Registered names, without importing anything."""
    return tuple(sorted(_entries()))


def list_methods() -> list[MethodEntry]:
    """Every registered method; broken ones carry their error.

    Raises:
        CompatibilityError: If two distributions register the same name.
    """
    return [_load(_entries()[name]) for name in method_names()]


def get_method(name: str, *, where: str = "cl.method.name") -> type[Method]:
    """The class registered under ``name``.

    Raises:
        RecipeError: If there is no such method, or its package cannot be imported (the message names it).
    """
    entries = _entries()
    if name not in entries:
        fix = f"{nearest(name, entries)} Methods: {', '.join(sorted(entries)) or 'none (is cl-plugins installed?)'}."
        raise RecipeError(Problem(where, f"there is no method called {name!r}.", fix.strip()))
    loaded = _load(entries[name])
    if loaded.method is None:
        what = f"method {name!r} of the package '{loaded.distribution}' cannot be imported ({loaded.error})."
        raise RecipeError(Problem(where, what, f"Mend or uninstall '{loaded.distribution}'."))
    return loaded.method


def make_method(name: str, options: Mapping[str, Any], *, where: str = "cl.method") -> Method:
    """The method called ``name`` with checked options.

    Args:
        name: As in ``cl.method.name``.
        options: The other keys of ``cl.method``.
        where: YAML path for the messages.

    Raises:
        RecipeError: With every problem of name and options.
    """
    method = get_method(name, where=f"{where}.name")
    problems: list[Problem] = []
    config = build(method.config_class, options, where, problems)
    if problems:
        raise RecipeError(problems)
    return method(config)
