"""What of settings and scores may leave a site: numbers, truth values and words under the names that are listed here.

The lists say what travels; whatever they do not name stays. They look at names and at the form of a value only, so that
every site leaves the same of a record, and leaves what is left as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from ..base.secrets import is_secret
from .names import TASK


#: Stands for a text of a method's options that does not travel.
LEFT = "(left out)"
#: Numbers that scorers report beside the score.
NUMBERS = (
    "constant_baseline", "majority_baseline", "random_baseline", "shuffled_floor", "invalid_rate", "sentence_bleu",
    "mean_overlap", "exact_lists", "items_without_options", "items_without_image", "open_items", "closed_items", "accuracy",
    "selected",
)  # fmt: skip
#: Measures that reference scorers report together (``metrics``).
METRICS = (
    "accuracy", "count_accuracy", "exact_match", "f1", "precision", "recall", "closed_accuracy", "bleu", "bleu_1", "bleu_2",
    "bleu_3", "bleu-4", "rouge-1", "rouge-2", "rouge-l", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr",
    "average", "final_score", "final_score_norm", "text_recognition", "scene_text_centric_vqa", "doc_oriented_vqa",
    "key_information_extraction", "handwritten_mathematical_expression_recognition",
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:,+=-]{0,199}")
#: Names of modules, or a pattern of them.
_MODULES = re.compile(r"[A-Za-z0-9_.:,+=*()|^$\[\]\\ ?-]{1,1000}")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_HUB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PLACE = re.compile(
    r"(?:^|_)(?:dirs?|paths?|files?|folders?|home|cache|urls?|endpoint|proxy|user|project|names?|datasets?|clip)$"
)
#: Keys of the host whose values are words of a fixed list, or names of modules.
_WORDS = re.compile(
    r"(?:template|stage|finetuning_type|lora_target|additional_target|freeze_trainable_modules|freeze_extra_modules|flash_attn"
    r"|quantization_method|quantization_type|optim|optim_target_modules|lr_scheduler_type|mix_strategy|rope_scaling|compute_type"
    r"|eval_strategy|save_strategy|infer_dtype|mixture_of_depths|badam_mode|badam_switch_mode|galore_target|apollo_target"
    r"|swanlab_mode|interleave_probs|loraplus_lr_embedding|reasoning_effort|learner|modalities|dtype|fusion"
    # of the block `cl`
    r"|scope|too_long|backend|policy|selection|mixing|order)"
)
#: Texts of a recipe that its next site has to repeat word by word.
_REPEATED = ("default_system", "question_after", "question_before")
_REPEATED_BY_TASK = ("descriptions", "letters")
_BASES = ("model_name_or_path", "model")
_KEPT_PLACES = ("flash_attn",)
#: Keys of the block `cl` that travel; what a probe tests stays with its site.
_BLOCK = ("replay", "order", "order_seed", "seed_per_task")
#: What is said of the records and the media of a data set.
_COUNTED = ("count", "bytes", "limit", "sha256")
_EVAL = ("scope", "zero_shot", "oracle", "max_new_tokens", "too_long", "max_items", "backend", "backend_options")


def is_number(value: object) -> bool:
    """Whether a value is a finite number, a truth value or nothing."""
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def base_text(text: str) -> str:
    """The name of a base: one of a hub (``org/model``) as it is, of a path the last part."""
    if _HUB.fullmatch(text) or (not re.search(r"[/\\]", text) and not text.startswith("~")):
        return text
    return PurePath(text.replace("\\", "/")).name


def told_extra(extra: object) -> dict[str, Any]:
    """The numbers that a scorer reports beside the score.

    Args:
        extra: ``extra`` of a score.

    Returns:
        Numbers of `NUMBERS`, ``metrics`` with those of `METRICS`, and ``routes`` with the number of items by task.
    """
    if not isinstance(extra, Mapping):
        return {}
    found = {key: extra[key] for key in NUMBERS if key in extra and is_number(extra[key])}
    metrics, routes = extra.get("metrics"), extra.get("routes")
    if isinstance(metrics, Mapping):
        found["metrics"] = {key: metrics[key] for key in METRICS if key in metrics and is_number(metrics[key])}
    if isinstance(routes, Mapping):
        found["routes"] = {k: v for k, v in routes.items() if isinstance(v, int) and TASK.fullmatch(str(k))}
    return found


def told_keys(keys: object) -> dict[str, Any]:
    """Keys of the host as another site may read them; at every depth the same rules hold.

    Args:
        keys: Keys of a recipe, or of ``task_overrides`` of one task.
    """
    found: dict[str, Any] = {}
    for key, value in keys.items() if isinstance(keys, Mapping) else ():
        name = str(key)
        if _KEY.fullmatch(name) is None or is_secret(name):
            continue
        if name in _BASES and isinstance(value, str):
            found[name] = base_text(value)
        elif name in _KEPT_PLACES or not _PLACE.search(name):
            kept, told = _told(name, value, told_keys)
            if kept:
                found[name] = told
    return found


def _told(name: str, value: object, inner: Callable[[object], dict[str, Any]]) -> tuple[bool, Any]:
    """Whether a value travels, and what of it."""
    if isinstance(value, Mapping):
        return True, inner(value)
    if isinstance(value, list | tuple):
        parts = [_told(name, item, inner) for item in value]
        return all(kept for kept, _ in parts), [told for _, told in parts]
    if isinstance(value, str):
        form = _MODULES if name.endswith(("target", "modules")) else _WORD
        words = _WORDS.fullmatch(name) is not None and (not value or form.fullmatch(value) is not None)
        return words or name in _REPEATED or _NUMBER.fullmatch(value) is not None, value
    return is_number(value), value


def told_options(options: object) -> dict[str, Any]:
    """Options of a method: numbers, words, and the texts that the next site has to repeat; `LEFT` stands for others.

    Args:
        options: The options by name.
    """
    if not isinstance(options, Mapping):
        return {}
    return {str(k): _option(str(k), v) for k, v in options.items() if _KEY.fullmatch(str(k))}


def _option(name: str, value: object) -> Any:
    if is_secret(name):
        return "***"
    if name in _REPEATED_BY_TASK and isinstance(value, Mapping):
        return {str(k): str(v) for k, v in value.items() if TASK.fullmatch(str(k))}
    if isinstance(value, Mapping):
        return told_options(value)
    if isinstance(value, list | tuple):
        return [_option(name, item) for item in value]
    if isinstance(value, str):
        word = not value or (_WORD.fullmatch(value) is not None and not _PLACE.search(name))
        return value if word or name in _REPEATED else LEFT
    return value if is_number(value) else LEFT


def told_block(block: object) -> dict[str, Any]:
    """The block ``cl`` of a recipe, without its data, its places and its probes.

    Args:
        block: The block as ``run.json`` holds it.
    """
    given = block if isinstance(block, Mapping) else {}
    found: dict[str, Any] = {}
    method = given.get("method")
    if isinstance(method, Mapping):
        found["method"] = {**told_options(method), "name": method.get("name")}
    elif isinstance(method, str):
        found["method"] = method
    if isinstance(given.get("stream"), str):
        found["stream"] = given["stream"]
    found |= told_keys({key: given[key] for key in _BLOCK if key in given})
    if "task_overrides" in given:
        found["task_overrides"] = told_tasks(given["task_overrides"])
    if isinstance(given.get("eval"), Mapping):
        found["eval"] = told_keys({key: given["eval"][key] for key in _EVAL if key in given["eval"]})
    return found


def told_tasks(overrides: object) -> dict[str, Any]:
    """``task_overrides``: the host's keys by task."""
    given = overrides if isinstance(overrides, Mapping) else {}
    return {str(task): told_keys(keys) for task, keys in given.items() if TASK.fullmatch(str(task))}


def told_data(record: object) -> dict[str, Any]:
    """What is recorded of a data set, as hashes: of its entry or function, its files, media and rows.

    Args:
        record: The entry of ``data`` in ``run.json``.
    """
    given = record if isinstance(record, Mapping) else {}
    found: dict[str, Any] = {}
    if "entry" in given:
        found["entry"] = entry_hash(given["entry"])
    if "function" in given:
        found["function"] = entry_hash(given["function"])
    files = given.get("files")
    if isinstance(files, Mapping):
        hashes = sorted(value for value in files.values() if _is_hash(value))
        found["files"] = {str(number): value for number, value in enumerate(hashes)}
    for key in ("media", "rows"):
        value = given.get(key)
        if isinstance(value, Mapping):
            found[key] = {name: value[name] for name in _COUNTED if name in value and _is_counted(value[name])}
    return found | {name: given[name] for name in (*_COUNTED, "rows") if name in given and _is_counted(given[name])}


def _is_counted(value: object) -> bool:
    return is_number(value) or _is_hash(value)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,128}", value) is not None


def entry_hash(entry: object) -> str:
    """SHA-256 of an entry of ``dataset_info.json`` or of a name; such a hash as it is."""
    if _is_hash(entry):
        return str(entry)
    return hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest()
