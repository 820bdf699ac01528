"""A carry of another recipe is told by the options that its parts were trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..base.errors import Problem, RunStateError


def check_same(there: Mapping[str, Any], ours: Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
    """Compare what a carry was trained with and what this recipe asks for.

    Args:
        there: What the carry says.
        ours: What this recipe's model has.
        names: What is compared -> the recipe's key, for the message; by default all of ``ours``, as options of the method.

    Raises:
        RunStateError: Naming the first that differs.
    """
    for key, name in ({key: f"cl.method.{key}" for key in ours} if names is None else names).items():
        if there.get(key) != ours[key]:
            what = f"was trained with {key} {there.get(key)}; this recipe's is {ours[key]}."
            raise RunStateError(Problem("carry", what, f"Use the `{name}` it was made with."))


def check_same_layers(there: Iterable[str], ours: Iterable[str]) -> None:
    """Compare the layers that a carry has parts for and those that this recipe's ``lora_target`` names.

    Args:
        there: Layers of the carry.
        ours: Layers of this recipe's model.

    Raises:
        RunStateError: If they are not the same.
    """
    missing, extra = sorted(set(ours) - set(there)), sorted(set(there) - set(ours))
    if missing or extra:
        what = f"has no parts for {len(missing)} of this recipe's layers, and parts for {len(extra)} others"
        fix = "Use the base and the `lora_target` it was made with."
        raise RunStateError(Problem("carry", f"{what} (e.g. {(missing + extra)[0]}).", fix))
