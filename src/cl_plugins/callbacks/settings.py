"""What a script that leads a stream is recorded with: LoRA, base and the arguments of each training, as keys of a recipe.

The names are those of a LLaMA-Factory recipe where one means the same, so that reports and comparisons show both kinds of
runs alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.words import Words
from ..contract.host import LEARNER


if TYPE_CHECKING:
    from peft import LoraConfig


#: What messages call the things that the author of a script can change.
WORDS = Words(
    other="other settings",
    back="Go back to these settings",
    elsewhere="choose another directory",
    anew="choose another directory",
    directory="directory",
    untracked='give the trainer `report_to="none"`',
)
#: Key of a recipe -> field of `peft.LoraConfig`.
_LORA = {
    "lora_rank": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target": "target_modules",
    "additional_target": "modules_to_save",
}
_REST = "lora_config"
_NOT_KEPT = frozenset(
    {"base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"}
)
#: Fields of `transformers.TrainingArguments` that decide what a training does.
_TRAINING = (
    "learning_rate lr_scheduler_type warmup_ratio warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm "
    "optim num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps label_smoothing_factor bf16 fp16 "
    "max_length packing completion_only_loss assistant_only_loss"
).split()
#: Those of them that are told even where they are the default.
_ALWAYS = frozenset(
    "learning_rate lr_scheduler_type num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps".split()
)


def learner_keys(model: Any, lora: LoraConfig | None, directory: Path, seed: int) -> dict[str, Any]:
    """The keys that stand for a learner in ``run.json``.

    Args:
        model: The base.
        lora: The LoRA.
        directory: The run's directory.
        seed: The seed of the stream.
    """
    return {
        LEARNER: "python",
        "model_name_or_path": str(getattr(model.config, "_name_or_path", "") or ""),
        "infer_dtype": str(model.dtype).removeprefix("torch."),
        "finetuning_type": "lora" if lora is not None else "full",
        **(_lora_keys(lora) if lora is not None else {}),
        "seed": seed,
        "output_dir": str(directory),
    }


def _lora_keys(lora: LoraConfig) -> dict[str, Any]:
    """A LoRA: the common fields by name, and of the others those that are not PEFT's default."""
    given = {name: plain(value) for name, value in lora.to_dict().items()}
    usual = {name: plain(value) for name, value in type(lora)().to_dict().items()}
    found = {key: given[name] for key, name in _LORA.items() if given.get(name) is not None}
    rest = {
        name: value
        for name, value in sorted(given.items())
        if name not in {*_LORA.values(), *_NOT_KEPT} and value != usual.get(name)
    }
    return found | ({_REST: rest} if rest else {})


def lora_of(keys: Mapping[str, Any]) -> LoraConfig | None:
    """The LoRA of a run, out of its keys."""
    from peft import LoraConfig

    if keys.get("finetuning_type") != "lora":
        return None
    fields = {name: keys[key] for key, name in _LORA.items() if key in keys}
    return LoraConfig(task_type="CAUSAL_LM", **fields, **(keys.get(_REST) or {}))


def training_keys(args: Any) -> dict[str, Any]:
    """What of a trainer's arguments decides what is learned.

    Args:
        args: `transformers.TrainingArguments`.
    """
    usual = {f.name: plain(f.default) for f in dataclasses.fields(args)}
    given = {name: plain(getattr(args, name, None)) for name in _TRAINING}
    found = {k: v for k, v in given.items() if v is not None and (k in _ALWAYS or v != usual.get(k))}
    if found.get("max_steps", 0) > 0:
        found.pop("num_train_epochs", None)  # the number of steps decides alone
    else:
        found.pop("max_steps", None)
    return found


def plain(value: Any) -> Any:
    """A value as JSON: sets sorted, enumerations by their values, other objects by their text."""
    value = getattr(value, "value", value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return plain(vars(value)) if hasattr(value, "__dataclass_fields__") else str(value)
