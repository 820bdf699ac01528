"""``carry_from`` with a packed carry: unpacked once into ``received/`` of the run, also where a kill comes in between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..base.files import recover_directory
from ..base.logs import logger
from ..config import CLConfig
from ..contract.carry import FILE, Carry, carry_directory
from ..contract.packed import Pack
from ..records.pack import CARRY, PACK, PackRecord
from .sender import other_keys, other_options, sender_of
from .site import RECEIVED


def received(root: Path, source: Path) -> Path:
    """The directory with the carry that ``carry_from`` names; a packed one is unpacked into the run first.

    Once it is unpacked, the file is not needed any more.

    Args:
        root: The run's directory.
        source: The value of ``carry_from``.

    Raises:
        RunStateError: If the pack is damaged, or missing before it was unpacked.
    """
    target = root / RECEIVED
    if target.is_symlink():
        fix = "Use a folder instead; only `output_dir` itself may be a link."
        raise RunStateError(Problem(str(target), "is a symbolic link, which is not followed.", fix))
    if source.is_dir():
        return carry_directory(source)
    recover_directory(target)
    there = (target / PACK).is_file()
    if source.exists():
        pack = Pack.open(source)
        if not there or PackRecord.read(target / PACK).checksum != pack.record.checksum:
            pack.unpack(target)
            logger.info("carry_from: %s was unpacked into %s", source, target)
    elif not there:
        return source
    return carry_directory(target)


def carried_tasks(root: Path, source: Path) -> tuple[str, ...] | None:
    """The tasks in the carry that ``carry_from`` names; None if there is none (yet). Nothing is unpacked.

    Args:
        root: The run's directory.
        source: The value of ``carry_from``.
    """
    if source.is_file():
        return tuple(Pack.open(source).record.tasks)
    for path in (carry_directory(source), root / "carry", root / RECEIVED / CARRY):
        if (path / FILE).is_file():
            return Carry.open(path).tasks
    return None


def tell_differences(config: CLConfig, host_keys: Mapping[str, Any], carry: Carry) -> None:
    """Log the options and the keys that differ from those of the site before.

    Args:
        config: The ``cl:`` block.
        host_keys: The host's keys of the recipe.
        carry: The carry that the run starts from.
    """
    sender = sender_of(carry)
    if found := other_options(config, sender):
        logger.warning("carry_from: the site before has trained with other options: %s", "; ".join(found))
    for line in other_keys(host_keys, sender):
        logger.warning("carry_from: the recipe of the site before differs: %s", line)
