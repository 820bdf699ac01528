"""The methods that choose their parts per sample, for `benchmarks.step.run`: found by their declaration, so new ones join in."""

from __future__ import annotations

from typing import Any


#: Options and replay without which a method cannot take a step here; all others have their defaults. The router of `mr_lora`
#: is a training of its own, so that its step is that of an expert whoever chooses.
OPTIONS: dict[str, dict[str, Any]] = {"moelora": {"experts": 4}, "mr_lora": {"selector": {"kind": "oracle"}}}
#: What a step at the last task may cost against plain LoRA of the same summed trainable rank.
LIMIT, DENSE, ONE_HOT = 1.5, 1.6, 1.1
LIMITS = {"moelora": DENSE, "clmoe": DENSE, "mr_lora": ONE_HOT}


def routed() -> dict[str, dict[str, Any]]:
    """Name -> options of this package's methods that answer by sample and need no replay buffer for a step."""
    from cl_plugins.methods import list_methods

    found = {}
    for entry in list_methods():
        if (
            entry.value is None
            or entry.distribution != "cl-plugins"
            or entry.value.capabilities.answers != "by_sample"
        ):
            continue
        if not entry.value.capabilities.needs_replay or entry.name in OPTIONS:
            found[entry.name] = OPTIONS.get(entry.name, {})
    return found


def summed_rank(model: Any) -> int:
    """Rank of all trained low-rank terms of a layer together, the largest of all layers; 0 if there is none.

    Args:
        model: A model in training, with PEFT's factors or those of `cl_plugins.adapters.bank`.
    """
    ranks: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, _, own = name.rpartition(".")
        if own == "cl_b":
            ranks[layer] = ranks.get(layer, 0) + int(parameter.shape[1])
        elif ".lora_B." in name:
            layer = name.partition(".lora_B.")[0]
            ranks[layer] = ranks.get(layer, 0) + int(parameter.shape[1])
    return max(ranks.values(), default=0)
