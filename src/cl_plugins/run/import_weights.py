"""``cl-plugins import run``: weights that others have trained, as the directory of a run that can be evaluated.

Each task gets the update that its training would have left, and the method makes the carry of it. There is no journal: nothing
was trained or tested here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem, RecipeError, RunStateError
from ..base.files import digest, write_with
from ..base.schema import defaults, json_value, nearest
from ..base.secrets import masked
from ..config import CLConfig, Recipe
from ..contract.carry import Carry
from ..methods.registry import get_method
from ..methods.weighted import WeightedExperts
from ..published.checkpoints.adapters import Checkpoint, read_checkpoint
from ..published.checkpoints.converting import anchor_statistics, convert
from ..published.checkpoints.names import by_plain_name
from ..records.record import few
from ..records.run import write_run
from ..training.handover import read_update, write_carry, write_update
from ..training.task import Learned
from . import record, task_keys
from .state import RunState


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.host import Host, Trained
    from ..contract.method import Method


@dataclass(frozen=True)
class ImportedRun:
    """What was written.

    Attributes:
        learned: The tasks in the carry, in order.
        given: Those whose own checkpoint was given.
        parameters: Parameters of one task's update.
        files: ``<task>: <file>`` -> SHA-256.
    """

    learned: tuple[str, ...]
    given: tuple[str, ...]
    parameters: int
    files: Mapping[str, str]


def import_run(host: Host, recipe: Recipe, given: Sequence[tuple[str, Path]], out: Path) -> ImportedRun:
    """Write a directory that `cl-plugins evaluate` and `export` take for that of a run.

    Args:
        host: The host that the recipe is written for.
        recipe: The recipe that would have trained it: stream, method, LoRA, base.
        given: Task and its checkpoint; those of all tasks up to the last, or that of the last alone.
        out: A new directory.

    Raises:
        RecipeError: If tasks or recipe do not fit the checkpoints; with all problems.
        DataError: If files are damaged or hold something else; with all problems.
        CompatibilityError: If the base's config cannot be had.
    """
    config, keys = recipe.config, recipe.host_keys
    method = get_method(config.method)(config.options)
    problems = _task_problems(config, method, [task for task, _ in given])
    if problems:
        raise RecipeError(problems)
    given = sorted(given, key=lambda pair: config.stream.task_names.index(pair[0]))
    checkpoints, problems = _read(given)
    if problems:
        raise DataError(few(problems))
    learned = _learned(config, method, checkpoints)
    expected = host.trained(keys, method, [config.stream.task(name) for name in learned])
    updates = _updates(recipe, method, learned, checkpoints, expected)
    state = RunState.to_look(host, out, host.looking_keys(keys), config)
    base = host.fingerprint(state.run_args)
    files = {f"{task}: {path.name}": digest(path) for task, found in checkpoints.items() for path in found.files}

    def produce(folder: Path) -> None:
        carry: Carry | None = None
        about = {"method": config.method, "stream": config.stream.name, "base": base}
        for name, update in updates.items():
            own = task_keys.directory(folder, config, name)
            write_update(own, update)
            tasks = list(learned[: learned.index(name) + 1])
            previous = carry if method.capabilities.schedule == "sequential" else None
            try:
                write_carry(folder / "carry", method, previous, read_update(own, name), {**about, "tasks": tasks})
            except (FileNotFoundError, RunStateError) as error:
                raise _without_statistics(config.method, error) from error
            carry = Carry.open(folder / "carry")
        write_run(folder, _record(keys, config, method, base, files, list(checkpoints)))

    write_with(out, produce)
    count = sum(value.numel() for value in updates[learned[-1]].tensors.values())
    return ImportedRun(learned, tuple(checkpoints), count, files)


def _task_problems(config: CLConfig, method: Method, names: Sequence[str]) -> list[Problem]:
    """What is wrong with the tasks that checkpoints are given for."""
    known, found = config.stream.task_names, []
    for name in dict.fromkeys(names):
        if name not in known:
            fix = f"{nearest(name, known)} Tasks: {', '.join(known)}.".strip()
            found.append(Problem(f"{name}=", f"there is no task {name!r} in the stream '{config.stream.name}'.", fix))
        if names.count(name) > 1:
            found.append(Problem(f"{name}=", "is given twice.", "Give one checkpoint for each task."))
    if not names:
        fix = "Give the checkpoint of each task, as in `path=checkpoints/path`."
        found.append(Problem("TASK=PATH", "is missing.", fix))
    if method.capabilities.schedule == "joint":
        what = f"'{config.method}' trains all tasks at once; checkpoints are imported task by task."
        found.append(Problem("cl.method.name", what, "Use the method that it was trained with."))
    for key in ("only", "carry_from"):
        if getattr(config.block, key) is not None:
            found.append(Problem(f"cl.{key}", "is for the training of one task.", "Leave it out."))
    return found


def _read(given: Sequence[tuple[str, Path]]) -> tuple[dict[str, Checkpoint], list[Problem]]:
    """Task -> checkpoint, and the problems of all files."""
    found: dict[str, Checkpoint] = {}
    problems: list[Problem] = []
    for task, path in given:
        try:
            found[task] = read_checkpoint(path)
        except DataError as error:
            problems += error.problems
    return found, problems


def _learned(config: CLConfig, method: Method, checkpoints: Mapping[str, Checkpoint]) -> tuple[str, ...]:
    """The tasks in the carry.

    Raises:
        RecipeError: If the checkpoint of a task is needed and was not given.
    """
    names = config.stream.task_names
    if method.capabilities.schedule == "independent":
        return tuple(checkpoints)
    last = list(checkpoints)[-1]
    learned = tuple(names[: names.index(last) + 1])
    lacking = [name for name in learned if name not in checkpoints]
    whole = checkpoints[last].kind == "experts" or not method.capabilities.grows
    if lacking and not (len(checkpoints) == 1 and whole):
        what = f"is missing, and '{config.method}' needs the checkpoint of every task up to {last}."
        if whole:
            what = f"is missing. Give the checkpoints of all tasks up to {last}, or that of {last} alone."
        fix = "The order of the tasks is that of the stream; `cl.order` in the recipe changes it."
        raise RecipeError([Problem(f"{name}=", what, fix) for name in lacking])
    return learned


def _updates(
    recipe: Recipe,
    method: Method,
    learned: Sequence[str],
    checkpoints: Mapping[str, Checkpoint],
    expected: Trained,
) -> dict[str, Learned]:
    """What each task has learned.

    Raises:
        RecipeError: With everything that does not fit the recipe.
    """
    config = recipe.config
    names, problems = by_plain_name(expected.shapes, "the base")
    for own in checkpoints.values():
        if own.scaling is None and recipe.host_keys.get("lora_alpha") is None:
            what = f"is not given, and no file next to {own.path} says it."
            problems.append(Problem("lora_alpha", what, "Set `lora_rank` and `lora_alpha` to those of the training."))
    wanted = {plain: expected.shapes[name] for plain, name in names.items()}
    bank = any(plain.endswith(".cl_a") for plain in names)
    alone = method.capabilities.schedule == "independent"
    last = list(checkpoints)[-1]
    found: dict[str, Learned] = {}
    one = len(checkpoints) == 1 and not method.capabilities.grows  # nothing of earlier tasks stands apart
    for name in [last] if one else learned:
        own = checkpoints.get(name, checkpoints[last])
        if own.kind == "experts" and not bank and not isinstance(method, WeightedExperts):
            what = f"has several experts for each layer, and '{config.method}' trains one LoRA."
            problems.append(Problem(str(own.path), what, "Use the method that it was trained with."))
            continue
        number = config.stream.task_names.index(name)
        tensors, more = convert(own, wanted, expected.meta[name], number, alone=alone)
        problems += more
        statistics, more = _statistics(method, own, number)
        problems += more
        if not problems:
            given: dict[str, Tensor] = {names[plain]: value.contiguous() for plain, value in tensors.items()}
            found[name] = Learned(given, expected.meta[name], statistics)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return found


def _statistics(method: Method, found: Checkpoint, number: int) -> tuple[dict[str, dict[str, Tensor]], list[Problem]]:
    """What a selector has measured on a task, and what is missing."""
    if not isinstance(method, WeightedExperts) or not method.selection.by_sample or method.selection.selector is None:
        return {}, []
    selector = method.selection.selector
    own = anchor_statistics(found, number, selector.config.kinds) if selector.kind == "anchors" else None
    if own is not None:
        return {"selector": own}, []
    words = {"image": "clip_image", "text": "clip_text_pooled"}
    there = ", ".join(words[kind] for kind in found.anchors) or "none"
    asked = f"the selector '{selector.kind}' on {', '.join(selector.config.kinds)}"
    what = f"has no statistics of {asked}; its anchors are of {there}."
    fix = "Use `cl.method.selector: {kind: anchors, features: [...], clip: FOLDER}` with these, or `{kind: oracle}`."
    return {}, [Problem(str(found.path), what, fix)]


def _without_statistics(method: str, error: FileNotFoundError | RunStateError) -> Exception:
    """What to raise where a method carries more than weights; another error as it is."""
    if not isinstance(error, FileNotFoundError) and "No such file" not in str(error):
        return error
    name = Path(str(error.filename)).name if isinstance(error, FileNotFoundError) else "statistics"
    what = f"'{method}' with these options keeps what it has measured in a training ({name}), and the files have none of it."
    fix = "Use options that need none, such as `selector: {kind: oracle}` or `faithful: peer`."
    return RecipeError(Problem("cl.method", what, fix))


def _record(
    keys: Mapping[str, Any],
    config: CLConfig,
    method: Method,
    base: dict[str, Any],
    files: Mapping[str, str],
    tasks: Sequence[str],
) -> dict[str, Any]:
    """``run.json``."""
    whole = sha256("".join(files.values()).encode()).hexdigest()
    options = json.loads(json.dumps(dataclasses.asdict(method.config), default=json_value))
    told = json.loads(json.dumps(defaults(type(method.config)), default=json_value))
    imported = {"file": ", ".join(files), "sha256": whole, "tasks": list(tasks), "files": dict(files)}
    return {
        **record.identity(keys, config, base, {}),
        "method": config.method,
        "seed": None,  # of the recipe, not of the training
        "method_options": masked(options),
        "method_defaults": masked(told),
        "notes": [
            *config.stream.notes,
            *method.notes(),
            *record.origin(imported),
        ],
        "versions": record.versions(),
        "imported": imported,
    }
