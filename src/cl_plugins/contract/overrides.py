"""Keys that a recipe gives for single tasks: what every host checks in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..base.errors import Problem


def override_problems(
    overrides: Mapping[str, Any], where: str, of_key: Callable[[str, str, Any], list[Problem]], whose: str = ""
) -> list[Problem]:
    """What is wrong with the keys of single tasks.

    Args:
        overrides: Task -> mapping of keys.
        where: YAML path of ``overrides``.
        of_key: YAML path, key and value -> the problems of one key.
        whose: Whose keys they are, for messages: ``LLaMA-Factory``.
    """
    problems: list[Problem] = []
    for task, given in overrides.items():
        if not isinstance(given, Mapping):
            kind = f"{whose} keys" if whose else "keys"
            problems.append(Problem(f"{where}.{task}", f"is {given!r}.", f"Give a mapping of {kind}."))
            continue
        for key, value in given.items():
            problems += of_key(f"{where}.{task}.{key}", str(key), value)
    return problems
