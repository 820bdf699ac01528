"""What the recipe's keys say about engine and precision, before anything loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..base.errors import Problem
from ..base.schema import nearest
from ..contract.capabilities import Capabilities, RunFacts
from ..run.engine_variables import FSDP, enabled, fsdp_problem, variable_problems
from ..run.precision import MIXED, asked
from ..streams import Stream
from .names import env_enabled


#: Variables of LLaMA-Factory that choose an engine behind the recipe's back.
_ENGINES = {
    "USE_MCA": "Megatron has its own trainer.",
    "USE_V1": "the v1 engine of LLaMA-Factory reads other recipes.",
}
#: Value of `report_to` -> packages of which one must be there.
_TRACKERS: dict[str, tuple[str, ...]] = {
    "azure_ml": ("azureml",), "clearml": ("clearml",), "codecarbon": ("codecarbon",), "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",), "dvclive": ("dvclive",), "flyte": ("flytekit",), "mlflow": ("mlflow",),
    "neptune": ("neptune",), "swanlab": ("swanlab",), "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",), "wandb": ("wandb",),
}  # fmt: skip
_OFFLOADS = {"offload_optimizer": "the optimizer", "offload_param": "the weights"}


def engine_config(deepspeed: Any) -> Mapping[str, Any]:
    """A DeepSpeed config (path or mapping) as a mapping; empty if there is none or it cannot be read."""
    config = deepspeed
    if isinstance(deepspeed, str):
        try:
            config = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    return config if isinstance(config, Mapping) else {}


def zero_stage(deepspeed: Any) -> int:
    """ZeRO stage of a DeepSpeed config (path or mapping); 0 if there is none or it cannot be read."""
    stage = _zero(deepspeed).get("stage", 0)
    return stage if isinstance(stage, int) else 0


def _zero(deepspeed: Any) -> Mapping[str, Any]:
    """The part of a DeepSpeed config on ZeRO; empty if it has another form."""
    zero = engine_config(deepspeed).get("zero_optimization", {})
    return zero if isinstance(zero, Mapping) else {}


def offloads(deepspeed: Any) -> dict[str, str]:
    """Where a DeepSpeed config moves what: ``offload_optimizer`` or ``offload_param`` -> device."""
    given = {part: _zero(deepspeed).get(part) for part in _OFFLOADS}
    parts = {part: str(v.get("device", "none")) for part, v in given.items() if isinstance(v, Mapping)}
    return {part: device for part, device in parts.items() if device != "none"}


def base_quantisation(keys: Mapping[str, Any], name_or_path: str) -> str | None:
    """Name of the quantisation of the base: asked for in the recipe, or written in the base's config.

    ``bnb`` is bitsandbytes with 4 bits, ``bnb-8bit`` the same with 8.
    """
    bits = keys.get("quantization_bit")
    if bits:
        method = str(keys.get("quantization_method", "bnb")).lower()
        return _bitsandbytes(bits in (8, "8")) if method in {"bnb", "bitsandbytes"} else method
    quantised = _config(keys, name_or_path).get("quantization_config")
    if not isinstance(quantised, Mapping):
        return None
    found = quantised.get("quant_method")
    if found == "bitsandbytes":
        return _bitsandbytes(bool(quantised.get("load_in_8bit")))
    return str(found) if found else None


def _config(keys: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The configuration of a base in a folder, or of one from a hub that was downloaded before.

    Empty for another base, and where the host will say what is wrong with it: a recipe is checked without a network.
    """
    path = Path(name) / "config.json"
    try:
        if not Path(name).exists():
            path = Path(_cached(keys, name) or path)
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, Mapping) else {}


def _cached(keys: Mapping[str, Any], name: str) -> str | None:
    """Where the configuration of a base lies in the hub's cache; None if it does not.

    Raises:
        OSError: The name is none of a base.
    """
    from transformers.utils import cached_file

    found = cached_file(
        name,
        "config.json",
        cache_dir=keys.get("cache_dir"),
        revision=str(keys.get("model_revision") or "main"),
        local_files_only=True,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found if isinstance(found, str) else None


def _bitsandbytes(eight_bit: bool) -> str:
    return "bnb-8bit" if eight_bit else "bnb"


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
        fsdp=bool(keys.get("fsdp")) or enabled(FSDP),
        half_precision=bool(asked(keys)),
        keys=keys,
    )


def engine_problems(name: str, facts: RunFacts, penalised: bool) -> list[Problem]:
    """What does not go with DeepSpeed, for every stage."""
    engine = facts.keys.get("deepspeed")
    if not engine:
        return []
    found = []
    if not facts.zero_stage:
        what = "names no configuration with ZeRO stage 2 or 3 (there is none, or it cannot be read)."
        found.append(Problem("deepspeed", what, "Stages 2 and 3 are tested; or train without DeepSpeed."))
    for part, device in offloads(engine).items():
        if device != "cpu":
            what = f"moves {_OFFLOADS[part]} to {device!r}, which is not tested."
            found.append(Problem("deepspeed", what, f"Set the device of `{part}` to cpu, or leave it out."))
        elif part == "offload_param" and facts.zero_stage != 3:
            what = f"moves the weights to the CPU with ZeRO-{facts.zero_stage}, which does not split them."
            found.append(Problem("deepspeed", what, "Use ZeRO-3, or leave `offload_param` out."))
    if facts.quantisation is not None:
        what = f"is not tested on a base quantised with {facts.quantisation}."
        found.append(Problem("deepspeed", what, "Train a quantised base with DDP (torchrun without `deepspeed`)."))
    if penalised:
        what = f"splits the gradients over the ranks, so that '{name}' cannot add its penalties to them."
        found.append(Problem("deepspeed", what, "Use DDP (torchrun without `deepspeed`)."))
    if facts.zero_stage == 3 and facts.keys.get("use_cpu"):
        what = "prevents DeepSpeed's ranks from connecting with ZeRO-3."
        fix = "Leave it out; on a machine without GPU set the environment variable DS_ACCELERATOR=cpu."
        found.append(Problem("use_cpu: true", what, fix))
    return found


def fp16_problems(name: str, able: Capabilities, facts: RunFacts) -> list[Problem]:
    """What does not go with training in fp16, whose gradients are scaled.

    Args:
        name: The method's name.
        able: Its capabilities.
        facts: The run.
    """
    if not facts.keys.get("fp16"):
        return []
    found = []
    if not able.fp16:
        what = f"is not tested with '{name}': gradients are scaled and steps skipped in fp16."
        found.append(Problem("fp16", what, "Use `bf16: true`, or train in fp32 without either key."))
    if facts.keys.get("use_cpu"):
        what = "scales no gradients on the CPU, where small ones would become zero."
        found.append(Problem("fp16", what, "Remove `use_cpu: true`, or train in fp32."))
    if facts.keys.get("bf16"):
        found.append(Problem("fp16", "is set together with `bf16`.", "Keep one of them."))
    if facts.keys.get("deepspeed"):
        what = "is not tested with DeepSpeed, which scales the loss by itself."
        found.append(Problem("fp16", what, "Use DDP (torchrun without `deepspeed`), or `bf16: true`."))
    if facts.quantisation is not None:
        what = f"is not tested on a base quantised with {facts.quantisation}."
        found.append(Problem("fp16", what, "Use `bf16: true`, or an unquantised base."))
    return found


def packing_problems(name: str, able: Capabilities, facts: RunFacts) -> list[Problem]:
    """Rows of several samples, with a method that chooses for single samples or measures them.

    Args:
        name: The method's name.
        able: Its capabilities.
        facts: The run.
    """
    if not able.reads_samples:
        return []
    what = f"puts several samples into one row, and '{name}' looks at single samples: one would stand for the others."
    return [Problem(w, what, "Turn it off.") for key in ("packing", "neat_packing") for w in facts.asked(key)]


def smoothing_problems(facts: RunFacts) -> list[Problem]:
    """Label smoothing with a base whose labels Transformers does not shift, so that a token is taught to repeat itself."""
    from transformers.models.auto import modeling_auto as auto

    places = facts.asked("label_smoothing_factor")
    if not places:
        return []
    loaded = _loaded_class(_config(facts.keys, str(facts.keys.get("model_name_or_path", ""))))
    if loaded is None or loaded in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return []
    what = (
        f"does not go with this base ({loaded}): Transformers shifts the labels of pure language models only, and would teach "
        "every token to repeat itself."
    )
    return [Problem(where, what, "Leave it out, or use a base of text alone.") for where in places]


def _loaded_class(config: Mapping[str, Any]) -> str | None:
    """Name of the class that the host makes of a base's configuration; None where nothing tells."""
    from transformers.models.auto import modeling_auto as auto

    kind = str(config.get("model_type"))
    for names in (
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    ):
        if kind in names:
            found = names[kind]
            return str(found if isinstance(found, str) else found[0])
    own = config.get("auto_map")
    given = own.get("AutoModelForCausalLM") if isinstance(own, Mapping) else None
    return given.rpartition(".")[2] if isinstance(given, str) else None


def capability_problems(name: str, able: Capabilities, facts: RunFacts, penalised: bool = False) -> list[Problem]:
    """What a method's declared capabilities rule out.

    Args:
        name: The method's name.
        able: Its capabilities.
        facts: The run.
        penalised: Whether it adds terms to the loss.
    """
    found = engine_problems(name, facts, penalised)
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
    found += fp16_problems(name, able, facts)
    found += packing_problems(name, able, facts)
    found += smoothing_problems(facts)
    if facts.zero_stage and facts.zero_stage not in able.zero_stages:
        tested = ", ".join(map(str, able.zero_stages)) or "none"
        what = f"'{name}' is not tested with DeepSpeed ZeRO-{facts.zero_stage}."
        found.append(Problem("deepspeed", what, f"Tested stages: {tested}; or train without DeepSpeed."))
    if facts.fsdp:
        found.append(fsdp_problem("fsdp" if facts.keys.get("fsdp") else FSDP))
    if able.needs_modality:
        for i, task in enumerate(facts.stream.tasks):
            if not task.modality:
                where = f"cl.stream.tasks[{i}].modality"
                found.append(
                    Problem(where, f"is missing, and '{name}' needs it.", "Give every task a modality label.")
                )
    if facts.finetuning_type == "lora" and facts.keys.get("freeze_multi_modal_projector") is False:
        if not facts.keys.get("additional_target"):
            what = "has no effect with LoRA: LLaMA-Factory leaves the projector frozen without a message."
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
    if template is not None and str(template) not in TEMPLATES:
        fix = f"{nearest(str(template), TEMPLATES)} See the table of models in LLaMA-Factory's README.".strip()
        found.append(Problem("template", f"LLaMA-Factory has no template {template!r}.", fix))
    return found + _precision_problems(keys, name) + _tracker_problems(keys) + _environment_problems(keys)


#: What the host freezes in full fine-tuning of a base with towers, and whether it does by default.
_FROZEN = {"freeze_vision_tower": True, "freeze_multi_modal_projector": True, "freeze_language_model": False}
_TOWERS = frozenset({"vision_config", "audio_config"})


def _precision_problems(keys: Mapping[str, Any], name: str) -> list[Problem]:
    """A base in a 16-bit type next to weights that the host trains in fp32: without autocast they cannot be multiplied."""
    if asked(keys) or keys.get("deepspeed"):
        return []
    config = _config(keys, name)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    full = keys.get("finetuning_type") == "full"
    frozen = any(keys.get(key, default) for key, default in _FROZEN.items()) and _TOWERS & {*config}
    if stored not in MIXED.values() or not (frozen if full else keys.get("additional_target")):
        return []
    given = keys.get("additional_target")
    names = ",".join(map(str, given)) if isinstance(given, (list, tuple)) else given
    trained = "the trained layers are" if full else f"`additional_target: {names}` is"
    what = f"is missing: the base is stored in {stored}, and {trained} kept in fp32, which does not go together."
    fix = (
        "Set `bf16: true`."
        if stored == "bfloat16"
        else "Set `bf16: true`, or `fp16: true` with a method that allows it."
    )
    return [Problem("bf16", what, fix)]


def _tracker_problems(keys: Mapping[str, Any]) -> list[Problem]:
    """Trackers whose package is missing: the host finds out when the first training begins."""
    given = keys.get("report_to")
    names = [given] if isinstance(given, str) else given if isinstance(given, (list, tuple)) else []
    found = []
    for name in map(str, names):
        if name in ("none", "all"):
            continue
        packages = _TRACKERS.get(name)
        if packages is None:
            known = ("none", *_TRACKERS)
            fix = f"{nearest(name, known)} Use one of {', '.join(known)}.".strip()
            found.append(Problem("report_to", f"names {name!r}, which Transformers does not know.", fix))
        elif not any(find_spec(package) for package in packages):
            what = f"names {name!r}, but its package is not installed."
            found.append(Problem("report_to", what, f"`pip install {packages[0]}`, or write `report_to: none`."))
    return found


def _environment_problems(keys: Mapping[str, Any]) -> list[Problem]:
    """What variables ask for, which the recipe does not show."""
    found = [
        Problem(name, f"is set in the environment: {why}", "Unset it; DDP works (torchrun).")
        for name, why in _ENGINES.items()
        if env_enabled(name)
    ]
    if env_enabled("USE_RAY"):
        what = (
            "is set in the environment: Ray is not tested with `cl`, and on machines without GPUs LLaMA-Factory asks Ray "
            "for ten times the CPUs that there are and waits for them without end."
        )
        fix = "Unset it; torchrun works on one node and on several (NNODES), and `cl-plugins sweep` starts many runs."
        found.append(Problem("USE_RAY", what, fix))
    return found + variable_problems(keys)
