"""Trainable tensors that a trainer's checkpoints would leave out: those a method put on the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..contract.names import is_own, is_peft
from .trained import is_trained


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


FILE = "cl_parameters.safetensors"


def extras(model: Module) -> dict[str, Tensor]:
    """Name -> trainable parameter, or live buffer, that a checkpoint must contain in addition to what the trainer saves.

    Args:
        model: The model in training. Of one with an adapter PEFT saves the adapter; one without, on which a method
            trains tensors of its own, is not saved by the trainer at all (`only_extras`); any other is saved whole.
    """
    found: dict[str, Tensor] = {name: b for name, b in model.named_buffers() if is_live(name)}
    if hasattr(model, "peft_config") or only_extras(model):
        found |= {name: p for name, p in model.named_parameters() if is_trained(p) and not is_peft(name)}
    return found


def is_live(name: str) -> bool:
    """Whether a buffer of this name is changed by the training, see `Method.after_step`."""
    return name.rpartition(".")[2].startswith("cl_live_")


def only_extras(model: Module) -> bool:
    """Whether all that trains is a method's own: a checkpoint then holds these tensors and not the frozen base."""
    if hasattr(model, "peft_config"):
        return False
    return any(is_trained(p) and is_own(name) for name, p in model.named_parameters())


@contextmanager
def counted_as_adapters(model: Any) -> Iterator[None]:
    """While a trainer is made: what a method put on a quantised base is an adapter to Transformers.

    Trainer refuses to train a quantised model unless PEFT put an adapter on it. That is right for the quantised weights, which
    get no gradient; here none of them trains.

    Args:
        model: The model in training; None for one that the trainer makes by itself.
    """
    mark = "_hf_peft_config_loaded"
    if not getattr(model, "is_quantized", False) or mark in vars(model) or not only_extras(model):
        yield
        return
    setattr(model, mark, True)
    try:
        yield
    finally:
        delattr(model, mark)


def save_extras(model: Module, folder: Path) -> None:
    """Write them into a checkpoint; nothing is written if there are none.

    Args:
        model: The model in training.
        folder: ``checkpoint-<step>``.
    """
    from safetensors.torch import save_file

    found = {name: p.detach().cpu().contiguous() for name, p in extras(model).items()}
    if found:
        save_file(found, folder / FILE, metadata={"format": "pt"})


def load_extras(model: Module, folder: Path) -> None:
    """Put the values of a checkpoint back, all of them.

    Args:
        model: The model in training.
        folder: ``checkpoint-<step>``.

    Raises:
        RunStateError: If the checkpoint lacks one of them or holds others.
    """
    import torch

    from ..contract.carry import read_tensors

    own = extras(model)
    if not own:
        return
    values = read_tensors(folder / FILE)
    wrong = sorted(set(own) ^ set(values))
    if wrong:
        what = f"does not hold the tensors that this method trains (e.g. {wrong[0]})."
        raise RunStateError(Problem(str(folder / FILE), what, "Delete the checkpoint and train the task again."))
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
