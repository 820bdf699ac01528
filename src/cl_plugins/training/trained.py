"""What a task trains, also where a method or a callback freezes some of it before the end."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch.nn import Module, Parameter


_MARK = "cl_trained"


def note_trained(model: Module) -> None:
    """Note which parameters are trainable when a task begins."""
    for parameter in model.parameters():
        setattr(parameter, _MARK, parameter.requires_grad)


def is_trained(parameter: Parameter) -> bool:
    """Whether a parameter is trained by the task: now, or earlier in it."""
    return parameter.requires_grad or bool(getattr(parameter, _MARK, False))


def train_again(model: Module) -> None:
    """Make trainable again what was frozen while the task trained, so that it is among what the task has learned."""
    for parameter in model.parameters():
        if is_trained(parameter):
            parameter.requires_grad_(True)


def forget_trained(model: Module) -> None:
    """Forget what `note_trained` has noted; parameters of the base outlive the task."""
    for parameter in model.parameters():
        if hasattr(parameter, _MARK):
            delattr(parameter, _MARK)
