"""Tensors that two modules of a base share, such as the input embedding and the output layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import Problem


if TYPE_CHECKING:
    from torch.nn import Module


_WRAPPED = (".base_layer", ".original_module")  # where PEFT keeps the module of the base


def trained_apart(model: Module) -> list[str]:
    """Modules that share a weight with another module and would train a part or a copy of their own.

    Full fine-tuning trains the shared tensor itself, and both modules see that.

    Args:
        model: The model with its adapter; its tensors may be on the meta device.

    Returns:
        Names of the modules without those that enclose them, sorted.
    """
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(name)
    trained = [(name, id(p)) for name, p in model.named_parameters() if p.requires_grad]
    found = set()
    for shared, names in owners.items():
        for name in names if len(names) > 1 else ():
            for end in _WRAPPED:
                name = name.removesuffix(end)
            if any(other.startswith(f"{name}.") and number != shared for other, number in trained):
                found.add(name.rpartition(".")[2])
    return sorted(found)


def tied_problem(model: Module, where: str) -> Problem | None:
    """Why an adapter on shared weights is refused: neither PEFT nor a merge keeps both modules the same.

    Args:
        model: The model with its adapter.
        where: What the message is about.
    """
    names = trained_apart(model)
    if not names:
        return None
    what = f"trains {', '.join(names)}, whose weight this base shares with another module (tied embeddings)."
    fix = "Leave them out of `lora_target` and `additional_target`, or use full fine-tuning (method `seqfull`)."
    return Problem(where, f"{what} The update could not be merged or tested as it was trained.", fix)
