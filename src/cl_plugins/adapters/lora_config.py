"""Which of PEFT's LoRAs an update can hold: one rank and one scaling for all layers, on a base that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from ..contract.names import ADAPTER


if TYPE_CHECKING:
    from peft import LoraConfig


#: Values of ``init_lora_weights`` that leave the base's weights as they are. PiSSA, OLoRA, CorDA and LoftQ take a part out of them.
INITS = (True, False, None, "gaussian", "orthogonal")
#: Field of `peft.LoraConfig` -> what it does that two factors and a scaling do not tell. They are to be empty.
FIELDS = {
    "rank_pattern": "gives layers ranks of their own",
    "alpha_pattern": "gives layers scalings of their own",
    "use_dora": "learns magnitudes as well (DoRA)",
    "lora_bias": "learns biases as well",
    "use_qalora": "pools the inputs (QALoRA)",
    "layer_replication": "repeats layers of the base",
    "target_parameters": "adapts parameters that are no layers",
    "trainable_token_indices": "learns rows of the embedding as well",
    "alora_invocation_tokens": "is active on some tokens only (aLoRA)",
}


def lora_problems(config: LoraConfig, where: str = "lora") -> list[Problem]:
    """What of a LoRA would be lost between the training and the model that is rebuilt.

    Args:
        config: The LoRA.
        where: Its name in the messages.

    Returns:
        The problems, one per field.
    """
    found = []
    init = getattr(config, "init_lora_weights", True)
    if not any(init is plain or init == plain for plain in INITS):
        what = f"is {init!r}, which changes the weights of the base: the next task would begin with another one."
        fix = "Leave it out, or use 'gaussian' or 'orthogonal'."
        found.append(Problem(f"{where}.init_lora_weights", what, fix))
    for field, does in FIELDS.items():
        if getattr(config, field, None):
            what = f"{does}, which updates and carry do not hold."
            found.append(Problem(f"{where}.{field}", what, "Leave it out: one rank and one alpha for all layers."))
    return found


def check_adapters(configs: Mapping[str, Any]) -> None:
    """An adapter that somebody else has put on the model in training.

    Args:
        configs: Its ``peft_config``: name -> configuration.

    Raises:
        CompatibilityError: There is none of the name that updates are read from, or it is of another kind.
    """
    if ADAPTER not in configs:
        what = f"has no adapter called {ADAPTER!r}, but {', '.join(map(repr, sorted(configs)))}."
        fix = "Leave `adapter_name` of `get_peft_model` out."
        raise CompatibilityError(Problem("model", what, fix))
    if problems := lora_problems(configs[ADAPTER], "peft_config"):
        raise CompatibilityError(problems)
