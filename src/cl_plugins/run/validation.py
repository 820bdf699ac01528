"""Validation sets of a recipe: which tasks have one, whether it is used, and what contradicts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.host import Host
    from ..contract.method import Method


def validation_problems(host: Host, keys: Mapping[str, Any], config: CLConfig, method: Method) -> list[Problem]:
    """Keys that need a validation set where there is none, and those that do not fit it.

    A task without a validation set is trained without the keys that need one, as long as another task has one. Keys of
    the top level that no task can follow are a problem, and so are those of a single task without a set.

    Args:
        host: The host.
        keys: The recipe's host keys.
        config: The ``cl:`` block.
        method: The method.
    """
    found = host.validation_problems(keys, "")
    with_set = [task for task in config.stream.tasks if task.valid]
    if host.validates(keys) and not with_set:
        what = "asks for the loss on validation sets, and no task of the stream has one."
        fix = "Name validation sets (`valid:` of the tasks in the stream file), or remove it."
        found.append(Problem("eval_strategy", what, fix))
    deciding = ["the recipe"] if with_set and host.chooses_weights(keys) else []
    for task in config.stream.tasks:
        own = config.overrides_for(task.name)
        if not own.keys() & host.validation_keys:
            continue
        given = {**keys, **own}
        place = (
            "cl.task_overrides" if own.keys() & config.block.task_overrides.get(task.name, {}).keys() else "overrides"
        )
        where = f"{place}.{task.name}." if place != "overrides" else f"cl.stream.tasks.{task.name}.overrides."
        found += [p for p in host.validation_problems(given, where) if p.where.rpartition(".")[2] in own]
        if host.validates(own) and not task.valid:
            what = f"asks for the loss on a validation set, and task '{task.name}' has none."
            found.append(Problem(f"{where}eval_strategy", what, "Name one (`valid:` of the task), or remove it."))
        if task.valid and host.chooses_weights(given):
            deciding.append(f"task '{task.name}'")
    if deciding and method.ends_in_last_step:
        what = (
            f"'{config.method}' makes what remains of a task in the last step of its training, and {deciding[0]} lets the "
            "validation loss decide which step that is."
        )
        fix = "Remove `load_best_model_at_end` and `early_stopping_steps`; `eval_strategy` alone may stay."
        found.append(Problem("cl.method.name", what, fix))
    return found


def unused_sets(host: Host, keys: Mapping[str, Any], config: CLConfig) -> list[str]:
    """Tasks whose validation sets a recipe does not use, or that have none where it uses those of others.

    Args:
        host: The host.
        keys: The recipe's host keys.
        config: The ``cl:`` block.

    Returns:
        Sentences for the log.
    """
    used: list[str] = []
    unused: list[str] = []
    without: list[str] = []
    trained = [t for t in config.stream.tasks if t.train and config.block.only in (None, t.name)]
    for task in trained:
        asked = host.validates({**keys, **config.overrides_for(task.name)})
        if task.valid:
            (used if asked else unused).append(task.name)
        elif asked:
            without.append(task.name)
    found = []
    if unused:
        found.append(f"the validation sets of {', '.join(unused)} are not used; `eval_strategy` is not set")
    if without and used:
        found.append(f"{', '.join(without)}: no validation set, so trained to the end and without a validation loss")
    return found
