"""The host's keys that measure the loss on a task's validation set while it trains: which need what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import Problem


#: Keys that mean something with a validation set only.
KEYS = frozenset(
    """eval_strategy eval_steps eval_delay eval_accumulation_steps load_best_model_at_end metric_for_best_model
    greater_is_better early_stopping_steps""".split()
)
_METRICS = ("loss", "eval_loss")
_OFF = (None, "no", False)  # YAML 1.1 reads `no` as false


def asked(keys: Mapping[str, Any]) -> bool:
    """Whether keys ask for a loss on a validation set."""
    return keys.get("eval_strategy") not in _OFF


def chooses(keys: Mapping[str, Any]) -> bool:
    """Whether the validation loss decides which weights a task ends with."""
    return bool(keys.get("load_best_model_at_end")) or keys.get("early_stopping_steps") is not None


def with_sets(keys: Mapping[str, Any], valid: Sequence[str]) -> dict[str, Any]:
    """The keys of a training with its validation sets; without any, the keys that need them are left out.

    Args:
        keys: The host's keys of one training.
        valid: Names of its validation sets.
    """
    found = dict(keys)
    if valid and asked(keys):
        found["eval_dataset"] = ",".join(valid)
        if chooses(keys):
            found["metric_for_best_model"] = found.get("metric_for_best_model") or "eval_loss"
        if keys.get("load_best_model_at_end") and keys.get("save_strategy") in _OFF[1:]:
            found["save_strategy"] = "best"  # nothing else is kept, but the best weights are on the disk only
        return found
    found = {key: value for key, value in found.items() if key not in KEYS}
    if found.get("save_strategy") == "best":
        found["save_strategy"] = "no"
    return found


def problems(keys: Mapping[str, Any], where: str = "") -> list[Problem]:
    """What is wrong with the keys of a training that concern its validation set.

    Args:
        keys: The host's keys of one training.
        where: YAML path in front of the keys; empty at the top level.
    """
    found = []
    wanting = [key for key in ("load_best_model_at_end", "early_stopping_steps") if keys.get(key) not in (None, False)]
    if not asked(keys):
        what = "needs the loss on a validation set during training, and `eval_strategy` is not set."
        fix = "Set `eval_strategy: steps` and `eval_steps`, and name `valid` sets in the stream; or remove it."
        return [Problem(f"{where}{key}", what, fix) for key in wanting]
    metric = keys.get("metric_for_best_model")
    if metric is not None and metric not in _METRICS:
        what = f"is {metric!r}, but only the loss is measured on validation sets."
        found.append(Problem(f"{where}metric_for_best_model", what, "Write `metric_for_best_model: eval_loss`."))
    if keys.get("greater_is_better"):
        found.append(Problem(f"{where}greater_is_better", "is true, but a lower loss is better.", "Remove it."))
    if keys.get("load_best_model_at_end") and keys.get("deepspeed"):
        what = "is not tested with DeepSpeed."
        found.append(Problem(f"{where}load_best_model_at_end", what, "Use DDP (torchrun without `deepspeed`)."))
    return found
