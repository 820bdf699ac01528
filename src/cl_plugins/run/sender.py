"""What the site before says of the carry that ``cl.carry_from`` names, and what of it does not fit the recipe. Nothing is unpacked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..config import CLConfig
from ..contract.carry import FILE, Carry, carry_directory
from ..contract.packed import Pack
from ..records.pack import CARRY, PACK, PackRecord
from ..records.told import told_options
from ..replay.store import Buffer
from ..report.text import listing
from .shareable import shared_keys, shared_options
from .site import RECEIVED


@dataclass(frozen=True)
class Sender:
    """What is known of the site before.

    Attributes:
        method: The method that made the carry.
        tasks: The tasks in it, in the order of learning.
        samples: Its kept training samples, by task.
        left_out: Kept samples that the sender did not put into the pack, by task.
        options: Options of the sender's method; empty where they are not known.
        keys: The sender's keys of LoRA, prompts and precision; empty where they are not known.
    """

    method: str
    tasks: tuple[str, ...]
    samples: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)


def look(root: Path, source: Path) -> Sender | None:
    """What a recipe starts from; None if there is nothing (yet).

    Args:
        root: The run's directory.
        source: The value of ``carry_from``.

    Raises:
        RunStateError: If it is damaged.
    """
    if source.is_file():
        record = Pack.open(source).record
        return _sender(record, record.samples)
    for path in (carry_directory(source), root / RECEIVED / CARRY):
        if (path / FILE).is_file():
            return sender_of(Carry.open(path))
    return None


def sender_of(carry: Carry) -> Sender:
    """What is known of the site that made a carry; its pack stands next to it if it came as one.

    Args:
        carry: The carry.
    """
    buffer = Buffer.open(carry)
    samples = dict(Counter(sample.task for sample in buffer.samples)) if buffer is not None else {}
    pack = carry.path.parent / PACK
    if carry.path.name == CARRY.rstrip("/") and pack.is_file():
        return _sender(PackRecord.read(pack), samples)
    return Sender(carry.method, carry.tasks, samples)


def _sender(record: PackRecord, samples: Mapping[str, int]) -> Sender:
    return Sender(
        record.method, tuple(record.tasks), samples, record.left_out, dict(record.options or {}), dict(record.keys)
    )


def problems(config: CLConfig, tasks: tuple[str, ...], method: str) -> list[Problem]:
    """Why a recipe cannot start from a carry, but for the order of the tasks.

    Args:
        config: The checked block.
        tasks: The tasks in the carry, in the order of learning.
        method: The method that made it.
    """
    where, found = f"cl.carry_from: {config.block.carry_from}", []
    if method != config.method:
        found.append(Problem(where, f"was made by '{method}', not by '{config.method}'.", "Use the same method."))
    unknown = [task for task in tasks if task not in config.stream.task_names]
    if unknown:
        what = f"contains tasks that the stream '{config.stream.name}' does not have: {', '.join(unknown)}."
        found.append(Problem(where, what, "Name every task of the carry in the stream, in the order of learning."))
    if config.block.only in tasks:
        fix = "Train a task that it does not contain."
        found.append(Problem(where, f"already contains task {config.block.only!r}.", fix))
    return found


def order_problems(config: CLConfig, tasks: tuple[str, ...]) -> list[Problem]:
    """Why the matrix of a run would be misread: a task of the carry stands behind ``only``, or they stand in another order.

    Args:
        config: The checked block.
        tasks: The tasks in the carry, in the order of learning.
    """
    names, only = config.stream.task_names, config.block.only
    learned = [task for task in tasks if task in names]
    if only not in names or only in learned:
        return []
    late = late_tasks(config, tasks)
    ordered = sorted(learned, key=names.index)
    if late:
        are = "are learned already and come" if len(late) > 1 else "is learned already and comes"
        what = f"{listing([repr(task) for task in late])} {are} after {only!r} in this order."
    elif ordered != learned:
        what = f"the tasks of the carry were learned in the order {', '.join(learned)}, and this order has {', '.join(ordered)}."
    else:
        return []
    seeded = config.block.order_seed is not None
    where = "cl.order_seed" if seeded else "cl.order" if config.block.order is not None else ""
    right = ", ".join([*learned, *(name for name in names if name not in learned)])
    first = "Put them first" if len(learned) > 1 else "Put it first"
    fix = f"{first}: `cl.order: [{right}]`{' instead of `cl.order_seed`' if seeded else ''}."
    return [Problem(where or f"cl.carry_from: {config.block.carry_from}", what, fix)]


def late_tasks(config: CLConfig, tasks: tuple[str, ...]) -> list[str]:
    """Tasks of the carry that come after ``cl.only`` in the order of the run.

    Args:
        config: The checked block.
        tasks: The tasks in the carry.
    """
    names, only = config.stream.task_names, config.block.only
    if only not in names or only in tasks:
        return []
    behind = names[names.index(only) :]
    return [task for task in tasks if task in behind]


def remarks(config: CLConfig, sender: Sender) -> list[str]:
    """What a reader of the results should know of the carry that the run starts from.

    Args:
        config: The checked block.
        sender: The site before.
    """
    return [*_late(config, sender), *_replay(config, sender)]


def carry_remarks(root: Path, config: CLConfig) -> list[str]:
    """`remarks` before a run starts; none where the carry is missing or damaged, which the start says.

    Args:
        root: The run's directory.
        config: The checked block.
    """
    if config.block.carry_from is None:
        return []
    try:
        sender = look(root, Path(config.block.carry_from))
    except RunStateError:
        return []
    return remarks(config, sender) if sender is not None else []


def _late(config: CLConfig, sender: Sender) -> Iterator[str]:
    """Only of runs that had begun before this was refused."""
    if late := late_tasks(config, sender.tasks):
        were = "were" if len(late) > 1 else "was"
        yield (
            f"{listing(late)} {were} learned before {config.block.only} and stand{'' if len(late) > 1 else 's'} after it in this "
            "order: A_k leaves such tasks out, and FWT counts them as forward transfer."
        )


def _replay(config: CLConfig, sender: Sender) -> Iterator[str]:
    if not config.replay.enabled:
        if sender.samples:
            counts = ", ".join(f"{task} {count}" for task, count in sender.samples.items())
            yield (
                f"The carry has kept samples ({counts}), and `cl.replay` is off: they are not replayed and not passed on."
            )
        return
    missing = [task for task in sender.tasks if not sender.samples.get(task)]
    lost = {task: sender.left_out[task] for task in missing if sender.left_out.get(task)}
    never = [task for task in missing if task not in lost]
    if lost:
        told = [f"{task} ({n} {'was' if n == 1 else 'were'} left out by the sender)" for task, n in lost.items()]
        yield f"The carry has no kept samples of {listing(told)}: they are not replayed."
    if never:
        yield f"No samples of {listing(never)} were kept: the carry has none to replay."


def other_options(config: CLConfig, sender: Sender) -> list[str]:
    """Options of the method that differ from those of the site before, for the log.

    Args:
        config: The checked block.
        sender: The site before.
    """
    here = shared_options(json.loads(json.dumps(asdict(config.options), default=str)))
    there: Mapping[str, Any] = told_options(sender.options)
    return [
        f"{key} is {here[key]!r} here and {there[key]!r} there"
        for key in here
        if here[key] != there.get(key, here[key])
    ]


def other_keys(host_keys: Mapping[str, Any], sender: Sender) -> list[str]:
    """Keys of LoRA, prompts, pictures and precision that differ from those of the site before, for the log.

    Args:
        host_keys: The host's keys of this recipe.
        sender: The site before.
    """
    there = sender.keys
    if not there:
        return []
    here = shared_keys(json.loads(json.dumps(dict(host_keys), default=str)))

    def said(value: Any) -> str:
        return "not set" if value is None else repr(value)

    return [
        f"{key} is {said(here.get(key))} here and {said(there.get(key))} there"
        for key in sorted({*here, *there})
        if here.get(key) != there.get(key)
    ]
