"""What speaks against replay in a recipe, before anything loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import Problem
from .selection import FEATURES, LOSSES


if TYPE_CHECKING:
    from ..config import CLConfig, ReplayConfig
    from ..contract.capabilities import Capabilities, RunFacts


_WHERE = "cl.replay"


def method_problems(replay: ReplayConfig, able: Capabilities, name: str, where: str = _WHERE) -> list[Problem]:
    """Why a method does not go with the buffer that is requested, or without one.

    Args:
        replay: The settings.
        able: Capabilities of the method.
        name: Its name.
        where: YAML path for the messages.
    """
    if not replay.enabled:
        if not able.needs_replay:
            return []
        what = f"is 0, and '{name}' draws from the buffer."
        fix = "Say how many samples of each task to keep, for example 20."
        return [Problem(f"{where}.capacity_per_task", what, fix)]
    found = []
    if able.schedule != "sequential":
        what = f"does not go with '{name}', which passes nothing from task to task."
        found.append(Problem(where, what, "Leave it out, or use a sequential method."))
    if able.needs_replay and replay.mixing != "concatenate":
        what = f"is {replay.mixing!r}, but '{name}' draws the memory samples itself."
        found.append(Problem(f"{where}.mixing", what, "Leave it out."))
    return found


def problems(config: CLConfig, able: Capabilities, facts: RunFacts, launched: bool = False) -> list[Problem]:
    """Why a method, an engine or a way of reading data does not go with the buffer that is requested.

    Args:
        config: The checked block.
        able: Capabilities of the method.
        facts: The run.
        launched: Whether torchrun or the like started the processes, also a single one.
    """
    replay, name = config.replay, config.method
    found = method_problems(replay, able, name)
    if not replay.enabled:
        return found
    keys = {**facts.keys}
    for task in config.stream.tasks:
        keys |= {k: v for k, v in config.overrides_for(task.name).items() if v}
    for key in ("packing", "neat_packing"):
        if keys.get(key):
            what = "hides the record of a training sample, so that none can be kept."
            found.append(Problem(key, what, "Turn it off, or `cl.replay`."))
    if replay.selection in (*FEATURES, *LOSSES) and facts.zero_stage == 3:
        what = f"is {replay.selection!r}, which is not tested on a model that ZeRO-3 has split."
        found.append(Problem(f"{_WHERE}.selection", what, "Use `random` or `class_balanced`."))
    if launched and ((able.needs_replay and able.memory_forward) or replay.mixing == "separate"):
        found += _checkpointing(facts)
    if replay.mixing == "separate" and able.rows_in_training and not keys.get("disable_gradient_checkpointing"):
        what = (
            f"is 'separate', whose second forward pass does not go with '{name}' under gradient checkpointing: layers would be "
            "computed again with the rows of another batch."
        )
        fix = "Use `concatenate`, or set `disable_gradient_checkpointing: true`."
        found.append(Problem(f"{_WHERE}.mixing", what, fix))
    if replay.mixing == "separate" and facts.keys.get("deepspeed"):
        what = "is 'separate', whose second forward pass is not tested with DeepSpeed."
        found.append(Problem(f"{_WHERE}.mixing", what, "Use `concatenate`, or train without DeepSpeed."))
    return found


def _checkpointing(facts: RunFacts) -> list[Problem]:
    """With a reentrant checkpoint, DDP would average the gradients of one of the forward passes only."""
    keys = facts.keys
    if keys.get("disable_gradient_checkpointing") or keys.get("use_reentrant_gc", True) is False:
        return []
    what = "is on by default, and under torchrun the gradients of memory batches would not be averaged."
    return [Problem("use_reentrant_gc", what, "Set `use_reentrant_gc: false`; the numbers stay the same.")]
