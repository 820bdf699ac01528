"""Learning rates of single parameters, set before an optimizer has state and a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def regroup(optimizer: Any, model: Any, rate: Callable[[str, Any, float], float]) -> None:
    """Split the groups of an optimizer by the learning rate that their parameters shall have.

    Args:
        optimizer: Without state.
        model: The model in training.
        rate: Name of a parameter, the parameter and the rate of its group -> its rate.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    for group in list(optimizer.param_groups):
        found: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            found.setdefault(rate(names.get(id(parameter), ""), parameter, group["lr"]), []).append(parameter)
        group["params"] = found.pop(group["lr"], [])
        for own, parameters in found.items():
            options = {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
            optimizer.add_param_group({**options, "params": parameters, "lr": own})
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]


def scale(optimizer: Any, model: Any, factors: Mapping[str, float]) -> None:
    """Give parameters whose names end in certain words a separate learning rate.

    Args:
        optimizer: Without state.
        model: The model in training.
        factors: Ending of a name -> factor on the rate of the parameter's group.
    """

    def rate(name: str, parameter: Any, given: float) -> float:
        endings = [ending for ending in factors if name.endswith(ending)]
        return given * factors[max(endings, key=len)] if endings else given

    if factors:
        regroup(optimizer, model, rate)
