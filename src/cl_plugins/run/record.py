"""``run.json``: what this run is, compared with what the directory was made for."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..base.secrets import is_secret, masked
from ..base.versions import installed_versions
from ..base.words import either, words
from ..config import CLConfig
from ..contract.host import ENCODERS
from .differences import differences
from .open_settings import item_limits, without_open_settings


PACKAGES = (
    "cl-plugins",
    "llamafactory",
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "accelerate",
    "deepspeed",
    "bitsandbytes",
)

# keys of the cl block that say how a run is carried out, and not what it computes
HOW = ("stop_after", "restart", "keep")
# host keys that may differ between two starts of one run without changing a number
FREE = ("output_dir", "overwrite_output_dir", "logging_steps", "logging_dir", "report_to", "run_name", "project", "trackio_space_id", "use_swanlab", "swanlab_project", "swanlab_workspace",
        "swanlab_run_name", "swanlab_run_id", "swanlab_mode", "swanlab_logdir", "swanlab_lark_webhook_url", "plot_loss", "disable_tqdm",
        "overwrite_cache", "preprocessing_num_workers", "save_steps", "save_strategy", "save_total_limit", "cache_dir")  # fmt: skip
PATHS = ("model_name_or_path", "dataset_dir", "media_dir")  # a moved folder is not another base: hashes decide
# what a stream says about itself and its tasks without changing a number of the run
ABOUT_STREAM = ("title", "notes", "paper", "homepage")
ABOUT_TASK = ("title", "source", "licence", "train_size", "test_size", "peer_scorer", "defaults")


def versions() -> dict[str, str]:
    """Versions of the packages that shape a result."""
    return {"python": platform.python_version(), **installed_versions(PACKAGES)}


def origin(imported: Mapping[str, Any] | None) -> list[str]:
    """Where weights come from that were not trained here, as a note for readers; none for a run of one's own.

    Args:
        imported: The entry of ``run.json``.
    """
    files = (imported or {}).get("files")
    if not files:
        return []
    named = ", ".join(f"{name} {sha256[:12]}" for name, sha256 in files.items() if not name.endswith(".json"))
    return [f"The weights were not trained here but imported (SHA-256 of the files): {named}."]


def hardware() -> dict[str, Any]:
    """What the run is computed on."""
    import torch

    found: dict[str, Any] = {"platform": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()}
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["processes"] = int(os.environ.get("WORLD_SIZE", "1"))
    return found


def peak_memory() -> int:
    """Largest memory use of this process so far, in bytes: on the accelerator if there is one, else resident."""
    import resource

    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def identity(
    host_keys: Mapping[str, Any], config: CLConfig, base: dict[str, Any], data: dict[str, Any]
) -> dict[str, Any]:
    """What makes a run this run: the resolved recipe, the stream, the base and the data; credentials are masked."""
    block = {k: v for k, v in asdict(config.block).items() if k not in ("stream", "method", *HOW)}
    cl = {"stream": config.stream.name, "method": {"name": config.method, **config.method_options}, **block}
    return {
        "recipe": masked({**dict(sorted(host_keys.items())), "cl": cl}),
        "stream": masked(asdict(config.stream)),
        "base": base,
        "data": data,
    }


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    # a credential is no part of what is computed, and an earlier version may have masked fewer keys
    recipe = {k: masked(v, k) for k, v in record["recipe"].items() if k not in (*FREE, *PATHS) and not is_secret(k)}
    if isinstance(recipe.get(ENCODERS), Mapping):  # as the paths of other bases: hashes decide
        recipe[ENCODERS] = {name: {**entry, "model": None} for name, entry in recipe[ENCODERS].items()}
    stream = {k: v for k, v in masked(record["stream"]).items() if k not in ABOUT_STREAM}
    stream["tasks"] = [{k: v for k, v in task.items() if k not in ABOUT_TASK} for task in stream["tasks"]]
    for task in stream["tasks"]:
        task.setdefault("valid", [])  # a run of an earlier version
    recipe["cl"] = _with_probes(
        {k: v for k, v in recipe["cl"].items() if k != "carry_from"}
    )  # its content decides: `began_with`
    origin = record["recipe"]["cl"].get("carry_from") is not None
    base = {k: record["base"].get(k) for k in ("sha256", "tokenizer", "settings")}
    return {"recipe": recipe, "stream": stream, "base": base, "data": dict(record["data"]), "carry_from": origin}


def _with_probes(block: dict[str, Any]) -> dict[str, Any]:
    """The block with the probes as far as they count; none in a run of an earlier version."""
    settings = dict(block.get("eval") or {})
    settings["probes"] = [
        {key: value for key, value in probe.items() if key not in ABOUT_TASK} for probe in settings.get("probes") or ()
    ]
    return {**block, "eval": settings}


def _without_tasks(record: dict[str, Any], tasks: set[str], data: set[str]) -> dict[str, Any]:
    """The record as it would be without some tasks at the end of the stream."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    copy["stream"]["tasks"] = [t for t in copy["stream"]["tasks"] if t["name"] not in tasks]
    block = copy["recipe"]["cl"]
    block["task_overrides"] = {k: v for k, v in (block.get("task_overrides") or {}).items() if k not in tasks}
    if block.get("order"):
        block["order"] = [name for name in block["order"] if name not in tasks]
    copy["data"] = {k: v for k, v in copy["data"].items() if k in data}
    return copy


def _without_training_of(record: dict[str, Any], task: str, keys: frozenset[str]) -> dict[str, Any]:
    """The record without what shapes the training of one task alone: its keys and its training sets."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    tasks = copy["stream"]["tasks"]
    own = next((t for t in tasks if t["name"] == task), None)
    if own is not None:
        own.pop("overrides", None)
        others = {name for t in tasks for name in (*t["test"], *((*t["train"], *t["valid"]) if t is not own else ()))}
        for name in {*own["train"], *own.pop("valid")} - others:
            copy["data"].pop(name, None)
            copy["data"].pop(f"{task}/{name}", None)
    (copy["recipe"]["cl"].get("task_overrides") or {}).pop(task, None)
    copy["recipe"] = {k: v for k, v in copy["recipe"].items() if k not in keys}
    return copy


def changed(old: Mapping[str, Any], new: Mapping[str, Any], measured: Collection[str] | None = None) -> bool:
    """Whether two identities differ in anything that counts; see `compare`."""
    before, after = _pair(old, new, measured)
    return before != after


def _pair(
    old: Mapping[str, Any], new: Mapping[str, Any], measured: Collection[str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What counts of two identities; fingerprints of tokenizer and settings, and hashes of media, count where both have one."""
    before, after = _comparable(json.loads(json.dumps(old))), _comparable(json.loads(json.dumps(new)))
    for key in ("tokenizer", "settings"):
        if before["base"][key] is None or after["base"][key] is None:
            before["base"][key] = after["base"][key] = None
    for name in before["data"].keys() & after["data"].keys():
        _without_unknown_hash(before["data"][name], after["data"][name])
    if measured is None:
        return before, after
    return without_open_settings(before, measured), without_open_settings(after, measured)


def _without_unknown_hash(a: Any, b: Any) -> None:
    """Leave the hash of media out of two records of one data set if a run of an earlier version has only their size."""
    pair = [record.get("media") if isinstance(record, dict) else None for record in (a, b)]
    known = [media for media in pair if isinstance(media, dict) and "bytes" in media]
    if len(known) == 2 and not all("sha256" in media for media in known):
        for media in known:
            media.pop("sha256", None)


def compare(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    root: Path,
    failed: str | None = None,
    keys: frozenset[str] = frozenset(),
    measured: Collection[str] | None = None,
) -> tuple[str, ...]:
    """Check that a directory may be resumed with this recipe.

    Args:
        old: The identity in ``run.json``.
        new: The identity of the recipe that was started.
        root: The output directory, for the message.
        failed: The task whose training failed the last time: its own keys and training data may be changed.
        keys: Host keys that may change as well, because no task has been trained with them yet.
        measured: Tasks that were tested; settings of other tests may change. None: no setting may.

    Returns:
        Names of appended tasks.

    Raises:
        RunStateError: If anything but appended tasks differs; the message names every key (`differences`).
    """
    before, after = _pair(old, new, measured)
    if before == after:
        return ()
    old_tasks = [t["name"] for t in before["stream"]["tasks"]]
    new_tasks = [t["name"] for t in after["stream"]["tasks"]]
    if len(new_tasks) > len(old_tasks) and new_tasks[: len(old_tasks)] == old_tasks:
        appended = tuple(new_tasks[len(old_tasks) :])
        if _without_tasks(after, set(appended), set(before["data"])) == before:
            return appended
    same_items = item_limits(before, measured) == item_limits(after, measured)
    if (
        failed is not None
        and same_items
        and _without_training_of(before, failed, keys) == _without_training_of(after, failed, keys)
    ):
        return ()
    lines = differences(before, after)
    what = f"was made with {words().other}:\n" + "\n".join(f"  {line}" for line in lines) + "\n"
    fix = either(words().back, words().elsewhere, words().anew)
    raise RunStateError(Problem(str(root), what, f"{fix} Tasks may only be appended."))


def version_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Packages whose version differs, for a warning."""
    return [f"{name} {old[name]} -> {new.get(name, 'none')}" for name in old if old[name] != new.get(name)]
