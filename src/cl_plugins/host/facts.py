"""What the recipe's keys say about engine and precision, before anything loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import Problem
from ..methods.base import Capabilities, RunFacts
from ..schema import nearest
from ..streams import Stream


def zero_stage(deepspeed: Any) -> int:
    """ZeRO stage of a DeepSpeed config (path or mapping); 0 if there is none or it cannot be read."""
    if deepspeed in (None, ""):
        return 0
    config = deepspeed
    if isinstance(deepspeed, str):
        try:
            config = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
    return int(config.get("zero_optimization", {}).get("stage", 0)) if isinstance(config, Mapping) else 0


def base_quantisation(keys: Mapping[str, Any], name_or_path: str) -> str | None:
    """Name of the quantisation of the base: asked for in the recipe, or written in a local base's config."""
    if keys.get("quantization_bit"):
        method = str(keys.get("quantization_method", "bnb")).lower()
        return "bnb" if method in {"bnb", "bitsandbytes"} else method
    config = Path(name_or_path) / "config.json"
    if config.is_file():
        try:
            found = json.loads(config.read_text(encoding="utf-8")).get("quantization_config", {}).get("quant_method")
        except ValueError:
            return None
        return {"bitsandbytes": "bnb"}.get(str(found), str(found)) if found else None
    return None


def run_facts(keys: Mapping[str, Any], stream: Stream) -> RunFacts:
    """The facts that methods are checked against.

    Args:
        keys: The recipe's host keys.
        stream: The stream.
    """
    name = str(keys.get("model_name_or_path", ""))
    return RunFacts(
        finetuning_type=str(keys.get("finetuning_type", "lora")),
        stream=stream,
        quantisation=base_quantisation(keys, name),
        zero_stage=zero_stage(keys.get("deepspeed")),
        fsdp=bool(keys.get("fsdp")),
        half_precision=bool(keys.get("bf16") or keys.get("fp16")),
        keys=keys,
    )


def capability_problems(name: str, able: Capabilities, facts: RunFacts) -> list[Problem]:
    """What a method's declared capabilities rule out."""
    found = []
    if facts.finetuning_type not in able.finetuning_types:
        allowed = " or ".join(able.finetuning_types)
        found.append(
            Problem(
                "finetuning_type",
                f"is {facts.finetuning_type!r}, which '{name}' cannot use.",
                f"Set `finetuning_type: {allowed}`.",
            )
        )
    if facts.quantisation is not None and facts.quantisation not in able.quantised:
        tested = ", ".join(able.quantised) or "none"
        what = f"'{name}' is not tested on a base quantised with {facts.quantisation}."
        found.append(Problem("quantization_bit", what, f"Tested: {tested}. Use another base."))
    if facts.zero_stage and facts.zero_stage not in able.zero_stages:
        tested = ", ".join(map(str, able.zero_stages)) or "none"
        what = f"'{name}' is not tested with DeepSpeed ZeRO-{facts.zero_stage}."
        found.append(Problem("deepspeed", what, f"Tested stages: {tested}; or train without DeepSpeed."))
    if facts.fsdp:
        found.append(
            Problem(
                "fsdp",
                "is not tested with any method.",
                "Use DDP (torchrun), or DeepSpeed where the method allows it.",
            )
        )
    if able.needs_modality:
        for i, task in enumerate(facts.stream.tasks):
            if not task.modality:
                where = f"cl.stream.tasks[{i}].modality"
                found.append(
                    Problem(where, f"is missing, and '{name}' needs it.", "Give every task a modality label.")
                )
    if facts.finetuning_type == "lora" and facts.keys.get("freeze_multi_modal_projector") is False:
        if not facts.keys.get("additional_target"):
            what = "has no effect with LoRA: the host leaves the projector frozen and says nothing."
            fix = "Set `additional_target: multi_modal_projector` (the projector's module name) to train it."
            found.append(Problem("freeze_multi_modal_projector: false", what, fix))
    return found


def setting_problems(keys: Mapping[str, Any]) -> list[Problem]:
    """What the host would find out late, or say in a way that names no key: directory, base, template.

    Args:
        keys: The recipe's host keys.
    """
    from llamafactory.data.template import TEMPLATES

    found = []
    output = keys.get("output_dir")
    if not output:
        found.append(Problem("output_dir", "is missing.", "Name the folder for this run."))
    elif Path(str(output)).exists() and not Path(str(output)).is_dir():
        found.append(Problem("output_dir", f"{output} is a file.", "Name a folder."))
    name = str(keys.get("model_name_or_path") or "")
    if not name:
        found.append(Problem("model_name_or_path", "is missing.", "Name the base: a folder, or a name on the hub."))
    elif (name.startswith((".", "~", "/")) or name.count("/") > 1) and not Path(name).exists():
        fix = f"Paths are relative to the folder you start from ({Path.cwd()})."
        found.append(Problem("model_name_or_path", f"there is no folder {name}.", fix))
    template = keys.get("template")
    if template is not None and template not in TEMPLATES:
        fix = f"{nearest(str(template), TEMPLATES)} See the table of models in LLaMA-Factory's README.".strip()
        found.append(Problem("template", f"LLaMA-Factory has no template {template!r}.", fix))
    return found
