"""What a finished training leaves: the update, the statistics, and what is needed to use them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_json, write_with


if TYPE_CHECKING:
    from torch import Tensor


def write_update(
    folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any], statistics: Mapping[str, dict[str, Tensor]]
) -> list[Path]:
    """Write ``update.safetensors``, one file for each of the statistics, and ``update.json``.

    Args:
        folder: The task's directory.
        tensors: From `Method.end_task`.
        meta: From `Method.describe_update`.
        statistics: From `Method.statistics`.

    Returns:
        The files.
    """
    from safetensors.torch import save_file

    files = []
    for name, values in {"update": tensors, **statistics}.items():
        files.append(folder / f"{name}.safetensors")
        write_with(files[-1], partial(save_file, values, metadata={"format": "pt"}))
    files.append(folder / "update.json")
    write_json(files[-1], meta)
    return files
