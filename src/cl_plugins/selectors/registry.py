"""Find selectors by kind, through the entry-point group ``cl_plugins.selectors``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import Problem, RecipeError
from ..base.registry import NotUsable, Registry
from ..base.schema import build
from .selector import Selector


def _check(name: str, value: Any, distribution: str) -> type[Selector]:
    """Accept subclasses of `Selector` that have the registered kind."""
    if not (isinstance(value, type) and issubclass(value, Selector)):
        shown = getattr(value, "__qualname__", repr(value))
        raise NotUsable(f"{shown} is not a subclass of cl_plugins.selectors.Selector")
    own = getattr(value, "kind", None)
    if own != name:
        raise NotUsable(f"the class calls itself {own!r}")
    return value


SELECTORS: Registry[type[Selector]] = Registry("cl_plugins.selectors", "selector", _check)


def make_selector(given: Mapping[str, Any], where: str = "cl.method.selector") -> Selector:
    """The selector of a recipe.

    Args:
        given: ``kind`` and its options.
        where: YAML path for the messages.

    Raises:
        RecipeError: With every problem of kind and options.
    """
    if "kind" not in given:
        fix = f"Known selectors: {', '.join(SELECTORS.names())}."
        raise RecipeError(Problem(f"{where}.kind", "is missing.", fix))
    found = SELECTORS.get(str(given["kind"]), where=f"{where}.kind")
    problems: list[Problem] = []
    options = {key: value for key, value in given.items() if key != "kind"}
    config = build(found.config_class, options, where, problems)
    if problems:
        raise RecipeError(problems)
    return found(config)
