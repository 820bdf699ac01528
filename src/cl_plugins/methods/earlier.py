"""What only earlier tasks have trained, where each task leaves the weights of the layers that it trained itself."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.carry import Carry


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors of a safetensors file, of which only the header is read."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        return set(handle.keys())


def kept(previous: Carry | None, file: str, new: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a carry's file that a task has not trained; the file is read only where there are some.

    Args:
        previous: The carry before the task.
        file: Name of the file.
        new: Names of the tensors that the task has trained.
    """
    if previous is None or file not in previous.files or tensor_names(previous.file(file)) <= set(new):
        return {}
    return {name: value for name, value in previous.load(file).items() if name not in new}
