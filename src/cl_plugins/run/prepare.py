"""What a run does to its directory before it begins, and the carry that it starts from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base import lock
from ..base.errors import Problem, RunStateError
from ..base.logs import logger
from ..base.words import words
from ..config import CLConfig
from ..contract.carry import Carry
from ..contract.host import same_base, same_tokenizer, settings_changes
from . import sender
from .received import received, tell_differences


def move_aside(root: Path) -> None:
    """``cl.restart``: keep an old directory under another name, and begin with an empty one."""
    kept = [p for p in root.iterdir() if p.name not in lock.FILES] if root.is_dir() else []
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


def earlier_carry(config: CLConfig, host_keys: Mapping[str, Any], base: dict[str, Any], root: Path) -> Carry | None:
    """The carry that ``carry_from`` names, verified; a packed one is unpacked into the run's directory.

    Args:
        config: The ``cl:`` block.
        host_keys: The host's keys of the recipe.
        base: Fingerprint of the base.
        root: The run's directory.

    Raises:
        RunStateError: If it is damaged, belongs to another base or tokenizer, was made by another method, or holds
            tasks that this stream does not have.
    """
    if config.block.carry_from is None:
        return None
    path = Path(config.block.carry_from)
    carry = Carry.open(received(root, path))
    carry.verify()
    where = f"cl.carry_from: {path}"
    problems = sender.problems(config, carry.tasks, carry.method)
    if not same_base(carry.base, base):
        names = f"{carry.base.get('name')} there, {base.get('name')} here"
        problems.append(Problem(where, f"belongs to another base ({names}).", "Use the same base model."))
    elif not same_tokenizer(carry.base, base):
        what = "was made with a tokenizer that produces other ids, although the weights of the base are the same."
        problems.append(Problem(where, what, "Use the tokenizer files of the base."))
    elif differing := settings_changes(carry.base, base):
        what = f"was made with other settings of the base: {'; '.join(differing)}."
        problems.append(Problem(where, what, "Use the files of the base unchanged."))
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
    tell_differences(config, host_keys, carry)
    return carry


def skipped_tasks(config: CLConfig, carry: Carry | None) -> list[str]:
    """Tasks that come before ``cl.only`` in the stream and that the model has not learned.

    Args:
        config: The ``cl:`` block.
        carry: The carry that the run starts from.
    """
    names = list(config.stream.learned_names)
    if config.block.only not in names:
        return []
    learned = carry.tasks if carry is not None else ()
    return [name for name in names[: names.index(config.block.only)] if name not in learned]


def check_room(root: Path) -> None:
    """A directory that cannot be written to is found out before anything is computed."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".probe.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise RunStateError(
            Problem(f"{words().directory}: {root}", f"cannot be written to ({error.strerror}).", "Choose another one.")
        ) from error
    if shutil.disk_usage(root).free < 64 * 1024**2:
        raise RunStateError(
            Problem(
                f"{words().directory}: {root}",
                "less than 64 MB are free on its disk.",
                "Free some space; finished steps are kept.",
            )
        )
