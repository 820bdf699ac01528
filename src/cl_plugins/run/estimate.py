"""How much disk a run will need, from sizes alone. Pure arithmetic; upper bounds where a method may decide."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.capabilities import Capabilities
from .precision import MIXED, asked


if TYPE_CHECKING:
    from ..contract.host import ModelSizes


SMALL_FILES = 64 * 1024**2  # predictions, logs, reports, tokenizer
_FP32, _MOMENTS = 4, 8  # bytes per parameter: a weight, Adam's two moments


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run will have on disk at its fullest moment.

    Attributes:
        updates: What the tasks learned, under ``tasks/`` and (as hard links) in ``carry/``.
        checkpoints: The trainer's own, deleted when their task is done.
        final: ``final/``.
        other: Everything else, generously.
        remarks: What was assumed.
    """

    updates: int
    checkpoints: int
    final: int
    other: int = SMALL_FILES
    remarks: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All of it. Checkpoints are gone before ``final/`` is written."""
        return self.updates + max(self.checkpoints, self.final) + self.other


def disk_need(
    model: ModelSizes,
    keys: Mapping[str, Any],
    able: Capabilities,
    tasks: int,
    keep: str,
    *,
    quantised: bool,
    zero_stage: int,
    earlier: int = 0,
) -> DiskNeed:
    """What a run will need.

    Args:
        model: Sizes of the base and of what is trained.
        keys: The recipe's host keys.
        able: The method's capabilities.
        tasks: Tasks that are trained (1 for a joint training).
        keep: ``cl.keep``.
        quantised: Whether the base is quantised.
        zero_stage: DeepSpeed ZeRO stage.
        earlier: Tasks in the carry that the run starts from.
    """
    remarks: list[str] = []
    mixed = bool(asked(keys))
    # DeepSpeed returns trained weights in the 16-bit type; its fp32 copies are in its checkpoints only
    width = 2 if mixed and zero_stage else _FP32
    update = model.trainable * width
    grows = able.grows
    part = able.low_rank or able.answers == "by_sample"  # what is trained lies next to the base
    # The carry links to the tasks' files; a carry that grows holds every one of them, another one the last, and the
    # old carry stays until the new one is in place.
    if keep == "all" or grows:
        kept = max(tasks + (earlier if grows else 0), 1)
    else:
        kept = min(tasks, 2)
    if tasks > 1:
        remarks.append(
            "carry/ shares its files with tasks/; where the file system has no hard links, it needs as much again"
        )
    half = mixed or model.dtype in MIXED.values()
    narrow = 2 if half else _FP32
    whole = model.parameters * narrow + model.trainable * (0 if part else width - narrow)
    weights = update if part else whole
    if keys.get("save_only_model"):
        optimizer = 0
    elif zero_stage:  # fp32 weights and the moments; ZeRO-2 keeps the model once more, ZeRO-3 what is frozen of it
        optimizer = model.trainable * (_FP32 + _MOMENTS) + (weights if zero_stage == 2 else weights - update)
    else:
        optimizer = model.trainable * _MOMENTS
    count, remark = _checkpoints(keys)
    count += bool(keys.get("load_best_model_at_end"))  # the best one stays as well
    if remark:
        remarks.append(remark)
    merges = able.low_rank and not half and not quantised and zero_stage != 3
    if merges:
        final = model.parameters * _FP32
    elif part:
        final = update * (tasks + earlier if grows else 1)
    else:
        final = whole
    return DiskNeed(update * kept, (weights + optimizer) * count, final, remarks=tuple(remarks))


def _checkpoints(keys: Mapping[str, Any]) -> tuple[int, str]:
    """How many checkpoints exist at the same time at most; the newest is written before the oldest goes."""
    strategy = keys.get("save_strategy", "steps")
    if strategy in ("no", False):
        return 1, "one checkpoint is counted, for a run that is stopped"
    limit = keys.get("save_total_limit")
    every, most = keys.get("save_steps", 500), keys.get("max_steps", -1)
    written = None
    if strategy == "steps" and isinstance(every, int) and every >= 1 and isinstance(most, int) and most > 0:
        written = math.ceil(most / every)
    if isinstance(limit, int) and limit > 0:
        return min(limit + 1, written or limit + 1), ""
    if written is not None:
        return written, ""
    return 1, "one checkpoint is counted; without `save_total_limit` all are kept until their task is done"


def free_space(path: Path) -> int:
    """Free bytes where ``path`` is or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def used_space(path: Path) -> int:
    """Bytes in a directory that exists already; hard links count once."""
    seen: dict[tuple[int, int], int] = {}
    for file in path.rglob("*") if path.is_dir() else ():
        if file.is_file():
            stat = file.stat()
            seen[(stat.st_dev, stat.st_ino)] = stat.st_size
    return sum(seen.values())
