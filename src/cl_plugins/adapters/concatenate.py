"""Several low-rank updates as one plain PEFT adapter: exact, since ``sum_i s_i B_i A_i = [s_1 B_1 ...] [A_1; ...]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import ExportError, Problem
from ..contract.low_rank import PREFIX, LowRankUpdate
from .merge import factors, modules, replaced


if TYPE_CHECKING:
    from torch import Tensor


def write_peft_adapter(
    folder: Path,
    updates: Sequence[LowRankUpdate],
    base_name: str,
    modules_to_save: Sequence[str],
    *,
    whole_modules: bool = True,
) -> dict[str, int]:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    The scaling of the result is 1 (``lora_alpha`` equals the rank); every factor is folded into B.

    Args:
        folder: Where to write; created.
        updates: The updates in order.
        base_name: Name or path of the base, for ``base_model_name_or_path``.
        modules_to_save: Modules that are replaced as a whole.
        whole_modules: Whether these modules are in the adapter; else the base has them already.

    Returns:
        Module name -> rank.

    Raises:
        ExportError: If there is no update.
    """
    from peft import LoraConfig, TaskType
    from safetensors.torch import save_file

    names = modules(updates)
    if not names:
        raise ExportError(Problem(str(folder), "there is no low-rank update to export.", "Train a task first."))
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name in names:
        pair = factors(updates, name)
        if pair is None:
            continue
        a, b = pair
        ranks[name] = int(a.shape[0])
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b.contiguous()
    for name, value in replaced(updates).items() if whole_modules else ():
        tensors[f"{PREFIX}{name}"] = value.contiguous()
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    different = {name: rank for name, rank in ranks.items() if rank != usual}
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base_name,
        inference_mode=True,
        r=usual,
        lora_alpha=usual,
        rank_pattern=different,
        alpha_pattern=different,
        target_modules=sorted(names),
        modules_to_save=(sorted(modules_to_save) or None) if whole_modules else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return ranks
