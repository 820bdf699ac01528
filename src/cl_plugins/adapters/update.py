"""One task's low-rank update: taking it from a PEFT model, putting it back, reading it from a file.

The tensors keep PEFT's names and are written as PEFT writes them, so the file of a first task has the same bytes as
the ``adapter_model.safetensors`` of a plain run. The file has another name, and no ``adapter_config.json`` next to it:
an update of task 2 on the raw base would load without complaint and be wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..contract.low_rank import PREFIX
from ..contract.names import adapter_tensors, trainable
from .partitioned import gathered


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def adapter_state(model: Module) -> dict[str, Tensor]:
    """The adapter's tensors (with ``modules_to_save``) under PEFT's names, on the CPU."""
    from peft import get_peft_model_state_dict

    with gathered(p for p in model.parameters() if p.requires_grad):
        # Without this PEFT adds the frozen weights of an embedding or output layer that has a LoRA; the base has them.
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def adapter_meta(model: Module) -> dict[str, Any]:
    """What the tensors lack: ``{"rank", "alpha", "rslora", "scaling", "targets", "modules_to_save"}``.

    A model without PEFT's adapter has no rank: its trained tensors replace the base's.
    """
    if not hasattr(model, "peft_config"):
        return {"scaling": 1.0, "targets": [], "modules_to_save": []}
    config: Any = model.peft_config["default"]  # type: ignore[index, union-attr]
    rank = int(config.r)
    scaling = config.lora_alpha / (rank**0.5 if config.use_rslora else rank)
    targets = config.target_modules
    return {
        "rank": rank,
        "alpha": float(config.lora_alpha),
        "rslora": bool(config.use_rslora),
        "scaling": float(scaling),
        "targets": targets if isinstance(targets, str) else sorted(targets),
        "modules_to_save": sorted(config.modules_to_save or []),
    }


def fill(model: Module, tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> None:
    """Put saved tensors into a model, every one of them.

    Args:
        model: A model with an adapter, or with trainable tensors of a method's own.
        tensors: By saved name, as `Method.learned` gave them.
        meta: What `adapter_meta` said of the model they come from; its scaling must be this model's.

    Raises:
        RunStateError: If names, shapes or the scaling do not match: the carry was made with another base, other
            targets, another rank or another alpha. Nothing is loaded then.
    """
    import torch

    plain = {**adapter_tensors(model), **trainable(model)}
    missing, extra = sorted(set(plain) - set(tensors)), sorted(set(tensors) - set(plain))
    if missing or extra:
        what = f"the carried tensors do not fit this model: {len(missing)} are missing, {len(extra)} unknown"
        raise RunStateError(
            Problem(
                "carry", f"{what} (e.g. {(missing + extra)[0]}).", "Use the base and LoRA targets it was made with."
            )
        )
    wrong = [name for name, tensor in tensors.items() if tensor.shape != plain[name].shape]
    if wrong:  # copy_ would spread a rank of 1 over any other
        found, wanted = list(tensors[wrong[0]].shape), list(plain[wrong[0]].shape)
        what = f"the carried adapter has tensors of another shape (e.g. {wrong[0]}: {found}, here {wanted})."
        raise RunStateError(Problem("carry", what, "Use the base and the `lora_rank` it was made with."))
    if meta is not None and "scaling" in meta and hasattr(model, "peft_config"):
        scaling = adapter_meta(model)["scaling"]
        if meta["scaling"] != scaling:
            what = f"the carried adapter has the scaling {meta['scaling']}; this recipe's is {scaling}."
            raise RunStateError(Problem("carry", what, "Use the `lora_alpha` and `use_rslora` it was made with."))
    with torch.no_grad():
        for name, tensor in tensors.items():
            plain[name].copy_(tensor)


def trained_factors(model: Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The live LoRA factors that are being trained: module name (without PEFT's prefix) -> (A, B).

    A has shape (rank, in), B (out, rank), without the scaling; the order is that of the model's modules.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in model.named_modules():
        if "lora_A" in module._modules and "default" in module.lora_A:  # type: ignore[operator]
            pair = module.lora_A["default"].weight, module.lora_B["default"].weight  # type: ignore[index]
            found[name.removeprefix(PREFIX)] = pair  # type: ignore[assignment]
    return found
