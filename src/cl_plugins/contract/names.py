"""Under which names trained tensors are saved: PEFT's names for its adapters, a parameter's own name for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter


ADAPTER = "default"  # the one adapter that is trained
_COPIED = ".modules_to_save."


def saved_name(name: str) -> str:
    """The name of a parameter in saved files: as PEFT writes it, without the adapter's name.

    Args:
        name: As in ``model.named_parameters()``.
    """
    name = name.removesuffix(f".{ADAPTER}").replace(f".{ADAPTER}.", ".")
    return name.replace(_COPIED, ".")


def is_peft(name: str) -> bool:
    """Whether PEFT saves a tensor of this name with its adapter."""
    return ".lora_" in name or _COPIED in name


def is_own(name: str) -> bool:
    """Whether a method put a tensor of this name on the model itself: its last part begins with ``cl_``."""
    return name.rpartition(".")[2].startswith("cl_")


def adapter_tensors(model: Module) -> dict[str, Tensor]:
    """Everything that a task may have put on the base: PEFT's adapter and a method's own ``cl_`` parameters, live.

    Args:
        model: The model, trained or restored.

    Returns:
        Saved name -> parameter, or buffer of a module that PEFT has copied.
    """
    found: dict[str, Tensor] = {saved_name(n): p for n, p in model.named_parameters() if is_peft(n) or is_own(n)}
    found |= {saved_name(n): b for n, b in model.named_buffers() if _COPIED in n}
    return found


def trainable(model: Module) -> dict[str, Parameter]:
    """Saved name -> parameter, of everything that is trainable."""
    return {saved_name(name): p for name, p in model.named_parameters() if p.requires_grad}


def trained_tensors(model: Module) -> dict[str, Tensor]:
    """What is trainable, and what PEFT also saves (buffers of copied modules), live."""
    buffers = {saved_name(n): b for n, b in model.named_buffers() if _COPIED in n}
    return {**trainable(model), **buffers}
