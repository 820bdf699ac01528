"""What each task of a run is trained with: number, seed, directory and the host's keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plan import JOINT


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.host import Host


def position(config: CLConfig, task: str) -> int:
    """Number of a task in the stream, from 1; the joint training counts as 1."""
    return 1 if task == JOINT else config.stream.task_names.index(task) + 1


def seed(config: CLConfig, keys: Mapping[str, Any], task: str) -> int:
    """The seed that a task trains with: the recipe's plus 1000 for every task before it.

    Args:
        config: The ``cl:`` block.
        keys: The recipe's host keys.
        task: Name of the task.
    """
    base = int(keys.get("seed", 42))
    return base + 1000 * (position(config, task) - 1) if config.block.seed_per_task else base


def directory(root: Path, config: CLConfig, task: str) -> Path:
    """``tasks/01_path``."""
    return root / "tasks" / f"{position(config, task):02d}_{task}"


def trained_tasks(config: CLConfig, schedule: str) -> list[str]:
    """Names of the trainings of a run, in order; one called ``joint`` where all tasks are trained at once."""
    if schedule == "joint":
        return [JOINT]
    return [config.block.only] if config.block.only else list(config.stream.trained_names)


def keys_of(
    host: Host, keys: Mapping[str, Any], config: CLConfig, task: str, output_dir: Path, *, validated: bool = True
) -> dict[str, Any]:
    """The host's keys of one training.

    Args:
        host: The host.
        keys: The recipe's host keys.
        config: The ``cl:`` block.
        task: Name of the task.
        output_dir: Its directory.
        validated: Whether its validation sets are used.
    """
    joint = task == JOINT
    tasks = config.stream.tasks if joint else (config.stream.task(task),)
    return host.task_keys(
        keys,
        datasets=[name for each in tasks for name in each.train],
        output_dir=output_dir,
        seed=seed(config, keys, task),
        overrides={} if joint else config.overrides_for(task),
        valid=[name for each in tasks for name in each.valid] if validated else [],
    )
