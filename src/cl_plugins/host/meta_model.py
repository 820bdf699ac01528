"""What a recipe would train, counted on a model without weights (the meta device)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import CompatibilityError, Problem
from ..contract.host import ModelSizes
from .task_args import parse


# Engine, precision and quantisation change where and how weights are held, not which are trained; without them a
# recipe for eight GPUs can be measured on a laptop.
_LEFT_OUT = (
    "deepspeed", "fsdp", "fsdp_config", "bf16", "fp16", "tf32", "quantization_bit", "quantization_method",
    "quantization_type", "double_quantization", "quantization_device_map", "output_dir", "ray_num_workers",
)  # fmt: skip


def measure(host_keys: Mapping[str, Any]) -> ModelSizes:
    """Build the base from its config without weights, put the host's adapter on it, and count.

    Args:
        host_keys: The recipe without ``cl``.

    Raises:
        CompatibilityError: If config or adapter cannot be had; the message holds the reason.
    """
    import torch
    from llamafactory.model import load_config
    from llamafactory.model.adapter import init_adapter

    keys = {k: v for k, v in host_keys.items() if k not in _LEFT_OUT}
    keys.update(use_cpu=True, dataset="none", output_dir="no-such-directory", report_to="none")
    try:
        args = parse(keys)
        config = load_config(args.model)
        with torch.device("meta"):
            model = _model_class(config).from_config(config, trust_remote_code=args.model.trust_remote_code)
        parameters = sum(p.numel() for p in model.parameters())
        model = init_adapter(config, model, args.model, args.finetuning, True)
    except (
        Exception
    ) as error:  # whatever the host, the hub or a remote model's code raises: the plan is shown without it
        name = keys.get("model_name_or_path")
        what = f"cannot be built from its config ({_short(error)})."
        raise CompatibilityError(Problem(f"model_name_or_path: {name}", what, "")) from error
    parts: dict[str, int] = {}
    targets: set[str] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = _kind(name)
        parts[kind] = parts.get(kind, 0) + parameter.numel()
        if ".lora_A." in name:
            targets.add(name.split(".lora_A.")[0].rpartition(".")[2])
    return ModelSizes(
        parameters=parameters,
        trainable=sum(parts.values()),
        parts=parts,
        targets=tuple(sorted(targets)),
        dtype=str(getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or "").removeprefix("torch."),
        image_tokens=image_tokens(config),
        model_type=str(getattr(config, "model_type", "")),
    )


def _model_class(config: Any) -> Any:
    """The class that the host would load."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    for candidate in (AutoModelForImageTextToText, AutoModelForSeq2SeqLM):
        if type(config) in candidate._model_mapping:
            return candidate
    return AutoModelForCausalLM


def _kind(name: str) -> str:
    if ".lora_" in name:
        return "LoRA"
    if ".modules_to_save." in name:
        return name.split(".modules_to_save.")[0].rpartition(".")[2]
    return "weights"


def _short(error: Exception) -> str:
    """The first line; hub errors are pages long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def image_tokens(config: Any) -> int | None:
    """Tokens per picture, where the model's config alone decides it."""
    fixed = getattr(config, "mm_tokens_per_image", None)
    if fixed:
        return int(fixed)
    vision = getattr(config, "vision_config", None)
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if getattr(config, "model_type", "") in {"llava", "vipllava"} and isinstance(size, int) and isinstance(patch, int):
        whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
        return (size // patch) ** 2 + int(whole)
    return None
