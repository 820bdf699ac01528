"""The table of the host's keys: what may differ from task to task, what holds for a run, what ``cl`` refuses.

LLaMA-Factory has about 350 keys. Those that matter are listed here with their reason; the others follow one rule: a
key whose name begins like an optimiser, schedule, logging, saving or loader key is *per task*, every other one is *per
run* (the safe side: a key that may not vary cannot make two tasks incomparable). The names themselves are read from
the host's dataclasses, so the table follows the installed version.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..base.errors import Problem
from ..base.schema import nearest
from ..contract.host import KeyInfo, KeyKind
from ..contract.overrides import override_problems
from .names import env_enabled


_PER_TASK: dict[str, str] = {
    "the task's data": """dataset_dir media_dir cutoff_len train_on_prompt mask_history mix_strategy interleave_probs
        overwrite_cache preprocessing_batch_size preprocessing_num_workers max_samples ignore_pad_token_for_loss
        packing disable_shuffling""",
    "optimiser": """learning_rate optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon
        max_grad_norm loraplus_lr_ratio loraplus_lr_embedding use_muon""",
    "loss": """label_smoothing_factor neftune_noise_alpha use_dft_loss use_eaft_loss eaft_alpha
        average_tokens_across_devices""",
    "schedule": "lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio",
    "training batch": """per_device_train_batch_size gradient_accumulation_steps train_sampling_strategy
        group_by_length length_column_name dataloader_drop_last dataloader_num_workers dataloader_pin_memory
        dataloader_persistent_workers dataloader_prefetch_factor sortish_sampler""",
    "length of training": "num_train_epochs max_steps",
    "the loss on the task's validation set (`valid`)": """eval_strategy eval_steps eval_delay eval_accumulation_steps
        load_best_model_at_end metric_for_best_model greater_is_better early_stopping_steps""",
    "logging": """logging_strategy logging_steps logging_first_step logging_nan_inf_filter plot_loss
        include_num_input_tokens_seen include_tokens_per_second include_effective_tokens_per_second""",
    "saving": "save_strategy save_steps save_total_limit save_safetensors",
}

_PER_RUN: dict[str, str] = {
    "all tasks share one model": """model_name_or_path model_revision cache_dir use_fast_tokenizer
        split_special_tokens init_special_tokens
        flash_attn moe_aux_loss_coef trust_remote_code neat_packing finetuning_type freeze_trainable_layers
        freeze_trainable_modules freeze_extra_modules freeze_vision_tower
        freeze_multi_modal_projector freeze_language_model""",
    "all tasks share one prompt format and one image format": """template tool_format default_system enable_thinking
        preserve_thinking image_max_pixels image_min_pixels
        image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps video_maxlen
        use_audio_in_video audio_sampling_rate""",
    "all tasks share one quantised base": """quantization_method quantization_bit quantization_type double_quantization
        quantization_device_map""",
    "all tasks share one precision": """bf16 fp16 tf32 infer_dtype
        fp8_backend""",
    "the updates of all tasks must fit together": """lora_rank lora_alpha lora_dropout lora_target additional_target
        use_rslora module_dropout oft_rank oft_block_size oft_target""",
    "one engine trains the whole stream": """deepspeed fsdp fsdp_config accelerator_config
        ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
        ray_num_workers ray_init_kwargs master_addr master_port use_cpu gradient_checkpointing
        gradient_checkpointing_kwargs disable_gradient_checkpointing""",
    "a run has one directory": "output_dir logging_dir",
    "an existing run is continued with any value of it; `cl.restart: true` starts again": "overwrite_output_dir",
    "task k trains with a seed derived from it": "seed",
    "as in a plain run, it orders the samples of every task": "data_seed",
    "a run is repeatable as a whole": "full_determinism",
    "a run is tracked as one": """report_to run_name project trackio_space_id use_swanlab swanlab_project
        swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir""",
    "it is also the batch of the generation, which is the same for every row": "per_device_eval_batch_size",
    "`cl` needs stage: sft": "stage",
    "`cl` trains": "do_train",
}

_GENERATION = "`cl` generates greedily, so that scores can be repeated"
_OWN_EVALUATION = "`cl` tests after every task itself"
_NAME_SETS = "Name test sets in `cl.stream`, and for the loss during training validation sets (`valid`)."
_ADAPTERS = "the method makes the adapters of every task"

# Features without a test in this package. A feature leaves this list when it has one.
_UNTESTED: dict[str, str] = {
    "not tested with updates that are stacked, merged and passed on": "use_dora pissa_init pissa_convert use_llama_pro",
    "this optimizer is not tested, and some of its kind change the weights during the backward, before any penalty can "
    "be added": "use_galore use_apollo use_badam use_adam_mini",
    "not tested: it puts its own layers in place of those that updates are merged into and stacked on": """
        use_unsloth use_unsloth_gc use_kt use_v1_kernels mixture_of_depths shift_attn""",
    "not tested: the model changes between tasks (an adapter, a stack) and would need to be compiled again": """torch_compile
        torch_compile_backend torch_compile_mode""",
    "not tested: it needs a GPU with 8-bit floats": "fp8 fp8_enable_fsdp_float8_all_gather",
    "not tested: it needs a GPU, and it computes the loss without the logits that terms and features need": """
        enable_liger_kernel use_liger_kernel liger_kernel_config""",
    "not tested with `cl`": "parallelism_config enable_jit_checkpoint upcast_layernorm upcast_lmhead_output",
    "not tested: a run, its `final/` and a later run need the same base; change it once, save it and name its folder": """
        resize_vocab add_tokens add_special_tokens new_special_tokens_config rope_scaling""",
}

# key -> (reason, what to do)
_REFUSED: dict[str, tuple[str, str]] = {
    "dataset": ("the tasks of `cl.stream` name the data sets", "Remove it."),
    "tokenized_path": ("it would feed one task's data to all of them", "Remove it."),
    "streaming": ("test items are joined with their records by row", "Remove it."),
    "eval_dataset": (_OWN_EVALUATION, _NAME_SETS),
    "val_size": (_OWN_EVALUATION + ", and this would take samples from training", _NAME_SETS),
    "eval_on_each_dataset": (_OWN_EVALUATION, "Remove it."),
    "bf16_full_eval": (_OWN_EVALUATION, "Remove it; answers are generated in the precision of the training."),
    "fp16_full_eval": (_OWN_EVALUATION, "Remove it; answers are generated in the precision of the training."),
    "ignore_data_skip": ("a resumed task would not see the same samples", "Remove it."),
    "do_eval": (_OWN_EVALUATION, "Remove it; set `cl.eval` instead."),
    "do_predict": (_OWN_EVALUATION, "Remove it; set `cl.eval` instead."),
    "eval_on_start": (_OWN_EVALUATION, "Use `cl.eval.zero_shot`."),
    "predict_with_generate": (_OWN_EVALUATION, "Remove it; predictions are written anyway."),
    "compute_accuracy": (_OWN_EVALUATION, "Name a scorer for each task."),
    "adapter_name_or_path": (_ADAPTERS, "Merge it into the base first, or use `cl.carry_from`."),
    "create_new_adapter": (_ADAPTERS, "Remove it."),
    "resume_from_checkpoint": ("a run resumes by itself", "Run the same command again."),
    "export_dir": ("a run writes its model to `final/`", "Use `cl-plugins export`."),
    "save_only_model": (
        "a checkpoint without optimizer cannot be resumed exactly",
        'Use `save_strategy: "no"`, or whole checkpoints.',
    ),
    "push_to_hub": ("tasks' intermediate models would be published", "Publish `final/` when the run is done."),
    "auto_find_batch_size": (
        "after running out of memory it would start again with weights that have already moved",
        "Choose `per_device_train_batch_size` and `gradient_accumulation_steps` that fit.",
    ),
    "pure_bf16": (
        "not tested, and small updates would be lost by rounding",
        "Use `bf16: true`; trained weights are then kept in fp32.",
    ),
    "train_from_scratch": (
        "not tested: a resumed run needs the same base",
        "Save the fresh model once, and name its folder.",
    ),
    "use_asft_loss": ("it needs a second copy of the base", "Remove it."),
    "use_mca": ("Megatron has its own trainer", "Remove it."),
    "use_hyper_parallel": ("HyperParallel has its own workflow", "Remove it; DeepSpeed and DDP work."),
    "eval_num_beams": (_GENERATION, "Remove it."),
    "generation_num_beams": (_GENERATION, "Remove it."),
    "generation_config": (_GENERATION, "Remove it."),
    "generation_max_length": (_GENERATION, "Set `cl.eval.max_new_tokens`, or `max_new_tokens` of a task."),
    "do_sample": (_GENERATION, "Remove it."),
    "temperature": (_GENERATION, "Remove it."),
    "top_p": (_GENERATION, "Remove it."),
    "top_k": (_GENERATION, "Remove it."),
    "num_beams": (_GENERATION, "Remove it."),
    "max_length": (_GENERATION, "Set `cl.eval.max_new_tokens`, or `max_new_tokens` of a task."),
    "max_new_tokens": (_GENERATION, "Set `cl.eval.max_new_tokens`, or `max_new_tokens` of a task."),
    "repetition_penalty": (_GENERATION, "Remove it."),
    "length_penalty": (_GENERATION, "Remove it."),
    "skip_special_tokens": (_GENERATION, "Remove it."),
}
_REFUSED |= {key: (reason, "Remove it.") for reason, members in _UNTESTED.items() for key in members.split()}

# Values other than the host's default that request nothing that `cl` does not do.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "temperature": (0, 1),
    "eval_num_beams": (1,),
    "generation_num_beams": (1,),
}

_TASK_PREFIXES = ("adam_", "optim_", "lr_", "warmup_", "logging_", "save_", "dataloader_")
_RUN_RULES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("galore_", "apollo_", "badam_", "kt_", "pissa_"), "belongs to a feature that is set for the whole run"),
    (("vllm_", "sglang_", "infer_"), "used by the host's inference only"),
    (("export_",), "used by the host's export only"),
    (("hub_", "hf_hub_", "ms_hub_", "om_hub_"), "access to a model hub"),
    (("pref_", "dpo_", "kto_", "ppo_", "simpo_", "ref_", "reward_", "ld_"), "used by other stages than sft only"),
    (
        ("eval_", "metric_", "include_for_", "batch_eval_", "prediction_"),
        "used by the host's own evaluation, which `cl` replaces",
    ),
    (("profile", "enable_torch_profiler"), "a run is profiled as one"),
)

_LISTED: dict[str, tuple[KeyKind, str]] = {
    **{key: ("per_task", reason) for reason, members in _PER_TASK.items() for key in members.split()},
    **{key: ("per_run", reason) for reason, members in _PER_RUN.items() for key in members.split()},
}

#: Keys whose values are paths of folders or files, or may be.
PATH_KEYS: frozenset[str] = frozenset(
    """model_name_or_path cache_dir dataset_dir media_dir output_dir logging_dir deepspeed fsdp_config accelerator_config
    swanlab_logdir offload_folder profiler_output_dir""".split()
)

#: Per-task keys that say which data a task has and how samples are made of them; joint training follows them too.
DATA_KEYS: frozenset[str] = frozenset(
    """dataset_dir media_dir cutoff_len train_on_prompt mask_history mix_strategy interleave_probs overwrite_cache
    preprocessing_batch_size preprocessing_num_workers max_samples packing""".split()
)

#: Those of them that a sample keeps when it is replayed in a later task.
SAMPLE_KEYS: frozenset[str] = frozenset("cutoff_len train_on_prompt mask_history".split())

#: Keys that shape prompts, pictures and the base in memory; whoever asks a finished model needs them again.
PROMPT_KEYS: frozenset[str] = frozenset(
    f"""{_PER_RUN["all tasks share one prompt format and one image format"]}
    {_PER_RUN["all tasks share one quantised base"]} use_fast_tokenizer split_special_tokens flash_attn""".split()
)

#: Keys of distributed engines; a finished run is inspected by one process, independent of the engine that trained it.
ENGINE_KEYS: frozenset[str] = frozenset(
    "deepspeed fsdp fsdp_config ddp_backend ray_num_workers ray_init_kwargs".split()
)

_HOMES = ("ModelArguments", "DataArguments", "TrainingArguments", "FinetuningArguments", "GeneratingArguments")
_ABSENT = object()


def kind_of(key: str) -> KeyInfo:
    """What kind of key ``key`` is.

    Args:
        key: A key of the host. One that the installed version does not know gets a kind by the rule, and no home.
    """
    home = _host_fields().get(key, ("", _ABSENT))[0]
    if key in _REFUSED:
        return KeyInfo(key, "refused", _REFUSED[key][0], home)
    if key in _LISTED:
        return KeyInfo(key, *_LISTED[key], home)
    for prefixes, reason in _RUN_RULES:
        if key.startswith(prefixes):
            return KeyInfo(key, "per_run", reason, home)
    if home == "TrainingArguments" and key.startswith(_TASK_PREFIXES):
        return KeyInfo(key, "per_task", "optimiser, schedule, logging, saving or loading", home)
    return KeyInfo(key, "per_run", "not known to be safe to vary", home)


def key_table() -> list[KeyInfo]:
    """Every key of the installed LLaMA-Factory, by home and then in the order of the host's dataclass."""
    return [kind_of(key) for key in _host_fields()]


def refused_keys() -> dict[tuple[str, str], list[str]]:
    """Reason and what to do instead -> the keys that are refused for it, for the docs."""
    found: dict[tuple[str, str], list[str]] = {}
    for key, why in _REFUSED.items():
        found.setdefault(why, []).append(key)
    return found


def bounds() -> dict[tuple[float, float], list[str]]:
    """Smallest and largest value -> the keys that have them, for the docs."""
    found: dict[tuple[float, float], list[str]] = {}
    for key, limits in _BOUNDS.items():
        found.setdefault(limits, []).append(key)
    return found


#: Optimizers of Transformers (values of ``optim``) that step during the backward, or in a separate space.
_ODD_OPTIMIZERS = ("lomo", "layerwise", "galore", "apollo")


def _optimizer_problems(where: str, value: object) -> list[Problem]:
    """Optimizers that move weights before a penalty can be added to their gradients."""
    if not isinstance(value, str) or not any(part in value for part in _ODD_OPTIMIZERS):
        return []
    what = f"is {value!r}, which changes the weights during the backward pass or in a separate space; not tested with `cl`."
    return [Problem(where, what, "Use `adamw_torch`, or another optimizer that steps once per batch.")]


#: Smallest and largest value of number keys; the host accepts others and fails late, or trains nothing.
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        """lora_rank oft_rank cutoff_len max_samples per_device_train_batch_size per_device_eval_batch_size
        gradient_accumulation_steps preprocessing_batch_size preprocessing_num_workers lora_alpha
        early_stopping_steps""".split(),
        (1, math.inf),
    ),
    **dict.fromkeys("learning_rate weight_decay max_grad_norm adam_epsilon warmup_ratio".split(), (0, math.inf)),
    **dict.fromkeys("lora_dropout module_dropout label_smoothing_factor adam_beta1 adam_beta2".split(), (0, 1)),
    **dict.fromkeys("seed data_seed".split(), (0, 2**32 - 1)),
}


def _value_problems(where: str, key: str, value: object) -> list[Problem]:
    """Numbers that no training can be done with."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return []
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a text; what is no number where one is wanted, the host says
        return []
    if not math.isfinite(number):
        return [Problem(where, f"is {value!r}.", "Give a finite number.")] if key in _number_keys() else []
    least, most = _BOUNDS.get(key, (-math.inf, math.inf))
    if number < least:
        return [Problem(where, f"is {value!r}.", f"The smallest allowed value is {least}.")]
    if number > most:
        return [Problem(where, f"is {value!r}.", f"The largest allowed value is {most}.")]
    return []


@cache
def _number_keys() -> frozenset[str]:
    """Keys whose default is a number, and those with bounds."""
    numbers = {
        key
        for key, (_, default) in _host_fields().items()
        if isinstance(default, (int, float)) and not isinstance(default, bool)
    }
    return frozenset(numbers | set(_BOUNDS))


def check(raw: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the top level of a recipe that has ``cl``.

    A refused key counts only if it asks for something: the host's default and the like (``do_eval: false``) pass.

    Args:
        raw: The recipe.

    Returns:
        One problem per key, in the order of the recipe, then the keys that are missing.
    """
    problems: list[Problem] = []
    for key, value in raw.items():
        if key == "cl" or str(key).startswith("cl."):
            continue
        if key not in _host_fields() and key not in _REFUSED:
            if not env_enabled("ALLOW_EXTRA_ARGS"):
                problems.append(_unknown(str(key), str(key)))
            continue
        if key == "optim":
            problems += _optimizer_problems(key, value)
        problems += _value_problems(str(key), str(key), value)
        info = kind_of(key)
        if info.kind != "refused" or _is_harmless(key, value):
            continue
        what = f"is {value!r}, which is not supported with `cl`: {info.reason}."
        problems.append(Problem(key, what, _REFUSED[key][1]))
    stage = raw.get("stage", "sft")
    if stage != "sft":
        problems.append(
            Problem("stage", f"is {stage!r}; `cl` runs supervised fine-tuning only.", "Write `stage: sft`.")
        )
    if not raw.get("do_train", False):
        what = "is missing" if "do_train" not in raw else f"is {raw['do_train']!r}"
        problems.append(Problem("do_train", f"{what}; `cl` trains.", "Write `do_train: true`, or remove `cl`."))
    return problems


def check_overrides(overrides: Mapping[str, Any], where: str = "cl.task_overrides") -> list[Problem]:
    """What is wrong with the host keys given for single tasks.

    Args:
        overrides: Task name to mapping of host keys.
        where: YAML path of ``overrides``.
    """
    return override_problems(overrides, where, _override_problems, "LLaMA-Factory")


def _override_problems(where: str, key: str, value: Any) -> list[Problem]:
    problems = _optimizer_problems(where, value) if key == "optim" else []
    problems += _value_problems(where, key, value)
    info = kind_of(key)
    if not info.home and key not in _REFUSED:
        problems.append(_unknown(where, key))
    elif info.kind == "refused":
        problems.append(Problem(where, f"is not supported with `cl`: {info.reason}.", _REFUSED[key][1]))
    elif info.kind == "per_run":
        fix = "Set it at the top level of the recipe."
        problems.append(Problem(where, f"must be the same for the whole run: {info.reason}.", fix))
    return problems


def _unknown(where: str, key: str) -> Problem:
    hint = nearest(key, _host_fields())
    return Problem(where, "is not a key of the installed LLaMA-Factory.", hint or "Correct or remove it.")


def _is_harmless(key: str, value: Any) -> bool:
    default = _host_fields().get(key, ("", _ABSENT))[1]
    default = getattr(default, "value", default)  # an enum's plain value
    if value is None or value == default or value in _HARMLESS.get(key, ()):
        return True
    return not value and (default is _ABSENT or not default)


@cache
def _host_fields() -> dict[str, tuple[str, Any]]:
    """Key -> (home, default) for every key that the host's parser accepts."""
    from llamafactory.hparams import parser

    found: dict[str, tuple[str, Any]] = {}
    for home in _HOMES:
        for field in dataclasses.fields(getattr(parser, home)):
            if field.init:
                default = field.default_factory() if callable(field.default_factory) else field.default
                found.setdefault(field.name, (home, default))
    return found
