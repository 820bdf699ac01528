"""The one checker of recipes: everything that can be found before a model loads, all of it at once.

`cl-plugins validate`, `cl-plugins plan` and every start of a run call `check`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import Problem, RecipeError, RunStateError
from ..config import CLConfig, EvalConfig, Recipe
from ..methods.registry import get_method
from ..recipe import expanded, parse_cl
from ..replay.checks import problems as replay_problems
from ..streams.model import LENGTH
from .backends import backend_problems
from .data_sets import absent_data, data_problems
from .harness import harness_problems
from .journal import Journal
from .sender import look, order_problems
from .sender import problems as carry_problems
from .validation import validation_problems


if TYPE_CHECKING:
    from ..contract.host import Host


def check(host: Host, raw: Mapping[str, Any], *, data: bool = True, absent: list[Problem] | None = None) -> Recipe:
    """Check a recipe.

    Args:
        host: The host that the recipe is written for.
        raw: The recipe: host keys and ``cl``, plain dicts and lists.
        data: Whether to check the files of data and base as well; one process of a run is enough.
        absent: If given, it gets the problems of data files that are not there, and they are no error.

    Returns:
        The host's keys and the ``cl:`` block, ``~`` expanded in all paths.

    Raises:
        RecipeError: With every problem of keys, block, stream, method options, engine and data.
    """
    keys = expanded({str(key): value for key, value in raw.items() if key != "cl"}, host.path_keys)
    problems = host.key_problems({**keys, **({"cl": raw["cl"]} if "cl" in raw else {})})
    dotted = [key for key in keys if key.startswith("cl.")]
    problems += [
        Problem(
            key,
            "is not nested.",
            f"Write it under `cl:` in the YAML, or as `{key}=...` after the YAML on the command line.",
        )
        for key in dotted
    ]
    cl = raw.get("cl")
    overrides = cl.get("task_overrides") if isinstance(cl, Mapping) else None
    if isinstance(overrides, Mapping):
        problems += host.override_problems(overrides, "cl.task_overrides")
    config: CLConfig | None = None
    if "cl" in raw or not dotted:
        try:
            config = parse_cl(cl, path_keys=host.path_keys).with_defaults(keys)
        except RecipeError as error:
            problems += error.at("cl")
    if config is not None:
        problems += _config_problems(host, keys, config)
        if data:
            problems += _carry_problems(keys, config)
            problems += host.base_problems(keys)
            found = data_problems(host, keys, config)
            if absent is not None:
                absent += absent_data(host, keys, config)
            problems += [problem for problem in found if problem not in (absent or ())]
    if problems or config is None:
        raise RecipeError(list(dict.fromkeys(problems)))
    return Recipe(keys, config)


def _carry_problems(keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """Why the recipe cannot start from the carry of ``carry_from``; what is damaged or missing is said by the start of a run.

    A run that has finished steps goes on: it had begun before the order was checked, and it gets a remark instead.
    """
    if config.block.carry_from is None:
        return []
    root = Path(str(keys.get("output_dir", "")))
    try:
        if not config.block.restart and Journal(root).entries:
            return []
        before = look(root, Path(config.block.carry_from))
    except RunStateError:
        return []
    if before is None:
        return []
    found = carry_problems(config, before.tasks, before.method)
    return found + order_problems(config, before.tasks)


def _config_problems(host: Host, keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """What method, engine, precision, replay and backend say to each other."""
    method = get_method(config.method)(config.options)
    tasks = tuple(dataclasses.replace(t, overrides=config.overrides_for(t.name)) for t in config.stream.tasks)
    facts = host.facts(keys, dataclasses.replace(config.stream, tasks=tasks))
    able = dataclasses.replace(method.capabilities, fp16=method.trains_in_fp16)
    found = host.method_problems(config.method, able, facts, method.penalised)
    found += method.problems(facts)
    found += replay_problems(config, method.capabilities, facts, ranks.launched())
    found += backend_problems(host, config, method, facts)
    found += [] if host.generates else _text_problems(config)
    for attribute in ("overrides", "defaults"):
        own = {task.name: getattr(task, attribute) for task in config.stream.tasks}
        found += host.override_problems(own, "cl.stream.tasks")
    found += _probe_problems(host, config)
    found += harness_problems(host, config, facts)
    if config.eval.oracle and not method.follows_told:
        what = f"compares with answers for the true task, and '{config.method}' does not find out a task for every question."
        fix = "Leave it out, or use a method with a selector that does (`cl.method.selector`)."
        found.append(Problem("cl.eval.oracle", what, fix))
    found += validation_problems(host, keys, config, method)
    return found + _schedule_problems(host, keys, config, method.capabilities.schedule)


def _text_problems(config: CLConfig) -> list[Problem]:
    """Settings of generated answers in a recipe whose answers are classes."""
    keys = ("max_new_tokens", "options_column")
    where = [
        f"cl.stream.tasks.{t.name}.{key}" for t in config.stream.tasks for key in keys if getattr(t, key) is not None
    ]
    if config.eval.max_new_tokens != EvalConfig().max_new_tokens:
        where.append("cl.eval.max_new_tokens")
    what = "is a setting of generated answers, and the answers of this recipe are classes."
    return [Problem(place, what, "Remove it.") for place in where]


def _probe_problems(host: Host, config: CLConfig) -> list[Problem]:
    """Keys of probes that the host does not know, or that do not concern data."""
    found = []
    for number, probe in enumerate(config.eval.probes):
        where = f"cl.eval.probes[{number}].overrides"
        refused = host.override_problems({probe.name: probe.overrides}, where)
        found += refused
        named = " ".join(problem.where for problem in refused)
        for key in sorted(set(probe.overrides) - host.data_keys):
            if key not in named:
                fix = f"Keys of a probe's data: {', '.join(sorted(host.data_keys))}."
                found.append(
                    Problem(f"{where}.{key}", "does not concern the data of a probe, which is only tested.", fix)
                )
    return found


def _schedule_problems(host: Host, keys: Mapping[str, Any], config: CLConfig, schedule: str) -> list[Problem]:
    found = _joint_problems(host, keys, config) if schedule == "joint" else []
    if config.block.only and schedule == "sequential" and not config.block.carry_from:
        first = config.stream.learned_names[0]
        if config.block.only != first:
            fix = (
                f"Give `carry_from`, the directory of the run that trained the tasks before, or begin with '{first}'."
            )
            found.append(Problem("cl.only", f"task {config.block.only!r} is not the first of the stream.", fix))
    return found


def _joint_problems(host: Host, keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """Keys of single tasks that one training of all tasks cannot follow; it follows those of the data."""
    found = []
    if config.block.only:
        what = f"does not go with '{config.method}', which trains all tasks at once."
        found.append(Problem("cl.only", what, "Leave it out."))
    fix = "Set it at the top level of the recipe, for all tasks together."
    decided = set(keys) | (LENGTH if LENGTH & set(keys) else set())
    for task in config.stream.tasks:
        own = config.block.task_overrides.get(task.name, {})
        for where, given, left in (
            (f"cl.task_overrides.{task.name}", own, host.data_keys),
            (f"cl.stream.tasks.{task.name}", task.overrides, host.data_keys | decided | set(own)),
        ):
            for key in sorted(set(given) - left):
                what = f"is given for this task, and '{config.method}' trains all tasks at once."
                found.append(Problem(f"{where}.{key}", what, fix))
    return found
