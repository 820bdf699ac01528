"""Reading the ``cl:`` block of a recipe: the dataclasses of `config`, and the checks across them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base.errors import Problem, RecipeError
from .base.schema import build, nearest, unknown_key
from .config import CLBlock, CLConfig
from .streams import Stream, load_stream


def parse_cl(cl: Any, *, where: str = "cl") -> CLConfig:
    """Check a ``cl:`` block.

    Args:
        cl: What stands under ``cl:`` in the YAML.
        where: YAML path for the messages.

    Raises:
        RecipeError: With every problem found in the block, in the stream and in the method's options.
    """
    from .base.schema import check_value, resolve_aliases
    from .methods.registry import get_method

    if not isinstance(cl, Mapping):
        raise RecipeError(Problem(where, f"is {cl!r}.", "Give a mapping with at least `stream` and `method`."))
    problems: list[Problem] = []
    block = build(CLBlock, cl, where, problems)
    stream = _stream(cl, where, problems)
    name, options = _method(cl, where, problems)
    if name is not None:
        try:
            method = get_method(name, where=f"{where}.method.name")
            options = resolve_aliases(method.config_class, options)
            check_value(options, method.config_class, f"{where}.method", problems)
        except RecipeError as error:
            problems.extend(error.problems)
    if block is not None and stream is not None:
        stream = _ordered(stream, block, where, problems)
        problems.extend(_cross_checks(stream, block, where))
    if problems or block is None or stream is None or name is None:
        raise RecipeError(problems)
    return CLConfig(stream=stream, method=name, method_options=options, block=block)


def _stream(cl: Mapping[str, Any], where: str, problems: list[Problem]) -> Stream | None:
    spec = cl.get("stream")
    if not isinstance(spec, (str, Mapping)):
        return None  # reported as missing or of the wrong type
    try:
        return load_stream(spec, where=f"{where}.stream")
    except RecipeError as error:
        problems.extend(error.problems)
        return None


def _method(cl: Mapping[str, Any], where: str, problems: list[Problem]) -> tuple[str | None, dict[str, Any]]:
    spec = cl.get("method")
    if not isinstance(spec, Mapping):
        return None, {}
    options = {str(key): value for key, value in spec.items()}
    name = options.pop("name", None)
    if not isinstance(name, str):
        problems.append(Problem(f"{where}.method.name", "is missing.", "Name a method; `cl-plugins list` shows them."))
        return None, {}
    return name, options


def _ordered(stream: Stream, block: CLBlock, where: str, problems: list[Problem]) -> Stream:
    if block.order is not None and block.order_seed is not None:
        problems.append(Problem(f"{where}.order", "is given together with order_seed.", "Keep one of the two."))
    elif block.order is not None:
        if sorted(block.order) != sorted(stream.task_names):
            fix = f"List each of these once: {', '.join(stream.task_names)}."
            problems.append(Problem(f"{where}.order", f"is {list(block.order)!r}.", fix))
        else:
            return stream.reordered(tuple(block.order))
    elif block.order_seed is not None:
        return stream.shuffled(block.order_seed)
    return stream


def _cross_checks(stream: Stream, block: CLBlock, where: str) -> list[Problem]:
    from .evaluation.scorers import get_scorer
    from .replay.checks import setting_problems

    found: list[Problem] = []
    names = stream.task_names
    for name in block.task_overrides:
        if name not in names:
            found.append(unknown_key(f"{where}.task_overrides", name, names))
    if block.only is not None and block.only not in names:
        fix = f"{nearest(block.only, names)} Tasks: {', '.join(names)}.".strip()
        found.append(Problem(f"{where}.only", f"there is no task {block.only!r}.", fix))
    if block.carry_from is not None and block.only is None:
        found.append(
            Problem(f"{where}.carry_from", "is given without `only`.", "Say which task to train: `only: NAME`.")
        )
    found.extend(setting_problems(block.replay, f"{where}.replay"))
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
    if not any(task.train for task in stream.tasks):
        found.append(Problem(f"{where}.stream.tasks", "none has training data.", "Name a training set (`train`)."))
    return found


def first_dataset(cl: Any) -> str:
    """The training sets of the first task to be trained, as LLaMA-Factory's comma-separated string.

    Raises:
        RecipeError: With every problem of the block.
    """
    config = parse_cl(cl)
    first = next(task for task in config.stream.tasks if task.train)
    task = config.stream.task(config.block.only) if config.block.only else first
    return ",".join(task.train)
