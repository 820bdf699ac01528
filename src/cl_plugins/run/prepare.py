"""Everything that can be checked before a model loads, and all of it at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import Problem, RecipeError, RunStateError
from ..base.logs import logger
from ..config import CLConfig
from ..contract.carry import Carry
from ..methods.registry import make_method
from ..recipe import parse_cl


if TYPE_CHECKING:
    from ..host.media import DataUse
    from ..host.task_args import HostArgs


def split(raw: Mapping[str, Any]) -> tuple[dict[str, Any], CLConfig]:
    """The host's keys and the checked ``cl:`` block of a recipe.

    Raises:
        RecipeError: With every problem of keys, block, stream, method options, engine and data set names.
    """
    from ..host.facts import capability_problems, run_facts, setting_problems
    from ..host.keys import check, check_overrides
    from ..replay.checks import problems as replay_problems
    from .backends import backend_problems

    host_keys = {str(k): v for k, v in raw.items() if k != "cl"}
    problems: list[Problem] = []
    config: CLConfig | None = None
    try:
        config = parse_cl(raw.get("cl")).with_defaults(host_keys)
    except RecipeError as error:
        problems.extend(error.problems)
    problems.extend(check(raw))
    problems.extend(setting_problems(host_keys))
    if config is not None:
        method = make_method(config.method, config.method_options)
        facts = run_facts(host_keys, config.stream)
        problems.extend(capability_problems(config.method, method.capabilities, facts, method.penalised))
        problems.extend(method.problems(facts))
        problems.extend(replay_problems(config, method.capabilities, facts, ranks.launched()))
        problems.extend(backend_problems(config, method, facts))
        problems.extend(check_overrides(config.block.task_overrides))
        problems.extend(_schedule_problems(host_keys, config, method.capabilities.schedule))
        problems.extend(data_problems(host_keys, config))
    if problems or config is None:
        raise RecipeError(list(dict.fromkeys(problems)))
    return host_keys, config


def _schedule_problems(host_keys: Mapping[str, Any], config: CLConfig, schedule: str) -> list[Problem]:
    found = []
    per_task = sorted({key for task in config.stream.tasks for key in task.overrides})
    if schedule == "joint" and per_task and not {"max_steps", "num_train_epochs"} & set(host_keys):
        what = f"sets {', '.join(per_task)} for single tasks, which joint training cannot follow."
        fix = "Say how long to train on all tasks together: `max_steps` or `num_train_epochs` at the top level."
        found.append(Problem("cl.stream", what, fix))
    if schedule == "joint" and config.block.only:
        found.append(
            Problem("cl.only", f"does not go with '{config.method}', which trains all tasks at once.", "Leave it out.")
        )
    if schedule == "joint" and config.block.task_overrides:
        what = f"does not go with '{config.method}', which trains all tasks at once."
        found.append(Problem("cl.task_overrides", what, "Set the keys at the top level."))
    if config.block.only and schedule == "sequential" and not config.block.carry_from:
        first = config.stream.task_names[0]
        if config.block.only != first:
            fix = (
                f"Give `carry_from`, the directory of the run that trained the tasks before, or begin with '{first}'."
            )
            found.append(Problem("cl.only", f"task {config.block.only!r} is not the first of the stream.", fix))
    return found


def data_uses(host_keys: Mapping[str, Any], config: CLConfig) -> list[DataUse]:
    """The data sets that the run reads, each with the folders and the limit that hold for its task."""
    from ..host.media import DataUse

    found: dict[str, DataUse] = {}
    common = host_keys.get("dataset_dir", "data")
    for task in config.stream.tasks:
        keys = {**host_keys, **config.overrides_for(task.name)}
        folder, media, limit = keys.get("dataset_dir", "data"), keys.get("media_dir"), keys.get("max_samples")
        if not isinstance(folder, str):
            continue  # a mapping, as the host also takes it
        media = media if isinstance(media, str) else None
        limit = limit if isinstance(limit, int) and limit > 0 else None
        trained = config.block.only in (None, task.name)
        uses = [(name, limit, False) for name in (task.train if trained else ())]
        uses += [(name, None, True) for name in (task.test if config.eval.scope != "none" else ())]
        for name, most, test in uses:
            key = name if folder == common else f"{task.name}/{name}"
            if key not in found or most is None:
                test = test or (key in found and found[key].test)
                found[key] = DataUse(name, folder, media, most, key, test)
    return list(found.values())


def data_problems(host_keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """Data set names that do not exist, files that are missing or empty or not JSON, pictures that are missing."""
    from ..host.media import inspect

    found = [problem for use in data_uses(host_keys, config) for problem in inspect(use)]
    return list(dict.fromkeys(found))


def data_hashes(host_keys: Mapping[str, Any], config: CLConfig, args: Callable[[], HostArgs]) -> dict[str, Any]:
    """Data set -> what decides its numbers (`fingerprint`), independent of where it lies; rows of hubs by their content."""
    from ..host.hub import hub_digest
    from ..host.media import fingerprint, on_hub

    found = {}
    for use in data_uses(host_keys, config):
        found[use.key] = fingerprint(use)
        if on_hub(found[use.key].get("entry", {})):
            found[use.key]["rows"] = hub_digest(use, args())
    return found


def move_aside(root: Path) -> None:
    """``cl.restart``: keep an old directory under another name, and begin with an empty one."""
    kept = [p for p in root.iterdir() if p.name != ".lock"] if root.is_dir() else []
    # A kill in between: without its journal nothing counts as finished, and a carry without a journal is refused, so the
    # journal goes first and the carry goes last.
    kept.sort(key=lambda path: {"journal.jsonl": 0, "carry": 2}.get(path.name, 1))
    if not kept:
        return
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    target = root.with_name(f"{root.name}.before-{stamp}")
    target.mkdir()
    for path in kept:
        path.rename(target / path.name)
    logger.info("cl.restart: the earlier run was moved to %s", target)


def earlier_carry(config: CLConfig, base: dict[str, Any]) -> Carry | None:
    """The carry that ``carry_from`` names, verified.

    Raises:
        RunStateError: If it is damaged, stands on another base, or was made by another method.
    """
    from ..host.fingerprint import same_base

    if config.block.carry_from is None:
        return None
    path = Path(config.block.carry_from)
    carry = Carry.open(path / "carry" if (path / "carry").is_dir() else path)
    carry.verify()
    where = f"cl.carry_from: {path}"
    problems = []
    if carry.method != config.method:
        problems.append(
            Problem(where, f"was made by '{carry.method}', not by '{config.method}'.", "Use the same method.")
        )
    if not same_base(carry.base, base):
        names = f"{carry.base.get('name')} there, {base.get('name')} here"
        problems.append(Problem(where, f"stands on another base ({names}).", "Use the very same base model."))
    if config.block.only in carry.tasks:
        problems.append(
            Problem(where, f"already contains task {config.block.only!r}.", "Train a task that it does not contain.")
        )
    if problems:
        raise RunStateError(problems)
    total = sum(r["bytes"] for r in carry.files.values())
    sizes = {name: r["bytes"] for name, r in carry.files.items()}
    replayed = [sizes.pop(name) for name in list(sizes) if name.startswith("replay/")]
    if replayed:
        sizes[f"replay/ with training samples, {len(replayed)} files"] = sum(replayed)
    listing = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in sizes.items())
    logger.info(
        "carry of %s (method %s, %.1f MB, hashes and base verified): %s",
        " → ".join(carry.tasks),
        carry.method,
        total / 1e6,
        listing,
    )
    return carry


def check_room(root: Path) -> None:
    """A directory that cannot be written to is found out before anything is computed."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".probe.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise RunStateError(
            Problem(f"output_dir: {root}", f"cannot be written to ({error.strerror}).", "Choose another one.")
        ) from error
    if shutil.disk_usage(root).free < 64 * 1024**2:
        raise RunStateError(
            Problem(
                f"output_dir: {root}",
                "less than 64 MB are free on its disk.",
                "Free some space; finished steps are kept.",
            )
        )
