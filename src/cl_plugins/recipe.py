"""Reading the ``cl:`` block of a recipe: the dataclasses of `config`, and the checks across them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from .base.errors import Problem, RecipeError
from .base.schema import build, nearest, resolve_aliases, unknown_key
from .config import CLBlock, CLConfig
from .evaluation.scorers import get_scorer
from .methods.registry import get_method
from .streams import Stream, load_stream
from .streams.probes import with_long_probes


def expanded(keys: Mapping[str, Any], path_keys: Collection[str]) -> dict[str, Any]:
    """Keys of a host with ``~`` expanded in those that hold paths.

    Args:
        keys: Keys of a recipe or of one task.
        path_keys: Which of them hold paths (`Host.path_keys`).
    """
    return {key: _path(value) if key in path_keys else value for key, value in keys.items()}


def _path(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) else value


def parse_cl(cl: Any, *, where: str = "cl", path_keys: Collection[str] = ()) -> CLConfig:
    """Check a ``cl:`` block.

    Args:
        cl: The content of ``cl:`` in the YAML.
        where: YAML path for the messages.
        path_keys: Keys of the host that hold paths, for the tasks' own keys.

    Raises:
        RecipeError: With every problem found in the block, in the stream and in the method's options.
    """
    if not isinstance(cl, Mapping):
        what = "is empty." if cl is None else f"is {cl!r}."
        fix = "Give a mapping with at least `stream` and `method`, or remove the key to train without cl_plugins."
        raise RecipeError(Problem(where, what, fix))
    problems: list[Problem] = []
    cl = {**cl, **{key: _path(cl[key]) for key in ("stream", "carry_from") if key in cl}}
    place = f"{where}.method"
    if isinstance(cl.get("method"), str):  # the name alone
        cl = {**cl, "method": {"name": cl["method"]}}
    else:
        place = f"{place}.name"
    if "eval" in cl:
        cl = {**cl, "eval": with_long_probes(cl["eval"])}
    block = build(CLBlock, cl, where, problems)
    stream = _stream(cl, where, problems)
    name, given, options = _method(cl, where, place, problems)
    if block is not None and stream is not None:
        stream = _ordered(stream, block, where, problems)
        problems.extend(_cross_checks(stream, block, where))
    if problems or block is None or stream is None or name is None:
        raise RecipeError(problems)
    own = {task: expanded(keys, path_keys) for task, keys in block.task_overrides.items()}
    tasks = tuple(
        replace(t, overrides=expanded(t.overrides, path_keys), defaults=expanded(t.defaults, path_keys))
        for t in stream.tasks
    )
    probes = tuple(
        replace(p, overrides=expanded(p.overrides, path_keys), include_path=_path(p.include_path))
        for p in block.eval.probes
    )
    return CLConfig(
        stream=replace(stream, tasks=tasks),
        method=name,
        method_options=given,
        block=replace(block, task_overrides=own, eval=replace(block.eval, probes=probes)),
        options=options,
    )


def _stream(cl: Mapping[str, Any], where: str, problems: list[Problem]) -> Stream | None:
    spec = cl.get("stream")
    if not isinstance(spec, (str, Mapping)):
        return None  # reported as missing or of the wrong type
    try:
        return load_stream(spec, where=f"{where}.stream")
    except RecipeError as error:
        problems.extend(error.problems)
        return None


def _method(
    cl: Mapping[str, Any], where: str, place: str, problems: list[Problem]
) -> tuple[str | None, dict[str, Any], Any]:
    """Name of the method (written at `place`), its options as given, and its dataclass."""
    spec = cl.get("method")
    if not isinstance(spec, Mapping):
        return None, {}, None
    given = {str(key): value for key, value in spec.items()}
    name = given.pop("name", None)
    if not isinstance(name, str):
        problems.append(Problem(place, "is missing.", "Name a method; `cl-plugins list` shows them."))
        return None, {}, None
    try:
        method = get_method(name, where=place)
    except RecipeError as error:
        problems.extend(error.problems)
        return name, given, None
    given = resolve_aliases(method.config_class, given)
    return name, given, build(method.config_class, given, f"{where}.method", problems)


def _ordered(stream: Stream, block: CLBlock, where: str, problems: list[Problem]) -> Stream:
    if block.order is not None:
        if sorted(block.order) != sorted(stream.task_names):
            fix = f"List each of these once: {', '.join(stream.task_names)}."
            problems.append(Problem(f"{where}.order", f"is {list(block.order)!r}.", fix))
            return stream
        return stream.reordered(tuple(block.order))
    return stream.shuffled(block.order_seed) if block.order_seed is not None else stream


def _cross_checks(stream: Stream, block: CLBlock, where: str) -> list[Problem]:
    found: list[Problem] = []
    names = stream.task_names
    for name in block.task_overrides:
        if name not in names:
            found.append(unknown_key(f"{where}.task_overrides", name, names))
    if block.only is not None and block.only not in names:
        fix = f"{nearest(block.only, names)} Tasks: {', '.join(names)}.".strip()
        found.append(Problem(f"{where}.only", f"there is no task {block.only!r}.", fix))
    if block.only is None:
        for i, task in enumerate(stream.tasks):
            if task.name in stream.elsewhere:
                fix = "Name at least one; a task that another site trains goes without, in a recipe with `only`."
                what = f"task '{task.name}' has neither train nor test data."
                found.append(Problem(f"{where}.stream.tasks[{i}]", what, fix))
    for i, task in enumerate(stream.tasks):
        for key, scorer in (("scorer", task.scorer), ("peer_scorer", task.peer_scorer)):
            try:
                if scorer is not None:
                    get_scorer(scorer, task=task.name)
            except RecipeError as error:
                found.extend(Problem(f"{where}.stream.tasks[{i}].{key}", p.what, p.fix) for p in error.problems)
        if block.only == task.name and not task.train:
            fix = "Name its training set, or train another task with `only:`."
            found.append(Problem(f"{where}.stream.tasks[{i}].train", f"task '{task.name}' has no training data.", fix))
    taken = {name.casefold(): name for name in names}
    for i, probe in enumerate(block.eval.probes):
        here = f"{where}.eval.probes[{i}]"
        if probe.name.casefold() in taken:
            what = f"{probe.name!r} is also a task of the stream."
            found.append(Problem(f"{here}.name", what, "Give the probe another name."))
        try:
            get_scorer(probe.scorer, task=probe.name)
        except RecipeError as error:
            found.extend(Problem(f"{here}.scorer", p.what, p.fix) for p in error.problems)
    if not any(task.train for task in stream.tasks):
        found.append(Problem(f"{where}.stream.tasks", "none has training data.", "Name a training set (`train`)."))
    return found
