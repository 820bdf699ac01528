"""Find methods by name, through the entry-point group ``cl_plugins.methods``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import Problem, RecipeError
from ..base.registry import Entry, NotUsable, Registry
from ..base.schema import build
from ..contract.method import Method


MethodEntry = Entry[type[Method]]


def _check(name: str, value: Any, distribution: str) -> type[Method]:
    """Accept subclasses of `Method` that have the registered name."""
    if not (isinstance(value, type) and issubclass(value, Method)):
        raise NotUsable(
            f"{getattr(value, '__qualname__', repr(value))} is not a subclass of cl_plugins.methods.Method"
        )
    own = getattr(value, "name", None)
    if own != name:
        raise NotUsable(f"the class calls itself {own!r}")
    return value


#: Every method; ours are in the same entry-point group as those of other packages.
METHODS: Registry[type[Method]] = Registry("cl_plugins.methods", "method", _check)


def method_names() -> tuple[str, ...]:
    """Return the registered names; imports nothing.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    return METHODS.names()


def list_methods() -> list[MethodEntry]:
    """Return every registered method; broken ones carry their error.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    return METHODS.entries()


def get_method(name: str, *, where: str = "cl.method.name") -> type[Method]:
    """Return the class registered under ``name``.

    Raises:
        RecipeError: If there is no such method, or it cannot be used (the message names its package).
        CompatibilityError: If two packages register the same name.
    """
    return METHODS.get(name, where=where)


def make_method(name: str, options: Mapping[str, Any], *, where: str = "cl.method") -> Method:
    """Make the method called ``name`` with checked options.

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
