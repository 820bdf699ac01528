"""Settings that concern tests alone: what is not measured yet may still be measured in another way."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from .data_sets import PROBE_DATA, probe_key


#: Host key of the batch in which answers are generated: another one changes the order of the arithmetic only, so that
#: a run that ran out of memory may be resumed with a smaller one.
BATCH = "per_device_eval_batch_size"
_CUTOFF = "cutoff_len"
_OF_TASKS = ("scorer", "max_new_tokens", "options_column")
_OF_ALL = ("max_items", "too_long", "backend", "backend_options")


def measured_tasks(steps: Collection[str]) -> frozenset[str]:
    """Tasks of which a cell of the matrix is measured, and probes that are measured.

    Args:
        steps: Keys of finished steps.
    """
    return frozenset(
        step.split(":")[2] for step in steps if step.startswith(("evaluate:", "probe:")) and step.count(":") == 2
    )


def without_open_settings(record: Mapping[str, Any], measured: Collection[str]) -> dict[str, Any]:
    """What counts of a run's identity, without the settings of tests that are not made yet.

    Args:
        record: The part of an identity that is compared: ``recipe`` and ``stream`` as in ``run.json``.
        measured: From `measured_tasks`.

    Returns:
        A copy. The longest answer stands with each measured task, whether the task or ``cl.eval`` says it.
    """
    found: dict[str, Any] = copy.deepcopy(dict(record))
    found["recipe"].pop(BATCH, None)
    settings = found["recipe"]["cl"].get("eval") or {}
    settings.pop("oracle", None)  # more answers, which change none
    common = settings.pop("max_new_tokens", None)
    for task in found["stream"]["tasks"]:
        if task["name"] in measured:
            task["max_new_tokens"] = task.get("max_new_tokens") or common
        else:
            for key in _OF_TASKS:
                task.pop(key, None)
    for key in () if measured else _OF_ALL:
        settings.pop(key, None)
    probes = [probe for probe in settings.get("probes") or () if probe["name"] in measured]
    probes.sort(key=lambda probe: str(probe["name"]))  # their order is that of tables
    settings["probes"] = [{**p, "after": None, "max_new_tokens": p.get("max_new_tokens") or common} for p in probes]
    left = tuple(probe_key(probe["name"]) for probe in probes)
    if "data" in found:
        data = found["data"].items()
        found["data"] = {k: v for k, v in data if not k.startswith(PROBE_DATA) or k.startswith(left)}
    return found


def batch_changes(old: Mapping[str, Any], new: Mapping[str, Any], measured: Collection[str]) -> list[str]:
    """What to say if answers are generated in other batches than those of the cells that are measured.

    Args:
        old: The recipe that they were measured with.
        new: The recipe now.
        measured: From `measured_tasks`.
    """
    if not measured or old.get(BATCH) == new.get(BATCH):
        return []
    return [f"{BATCH} was {old.get(BATCH)} and is {new.get(BATCH)}; cells that are measured keep their answers"]


def item_limits(record: Mapping[str, Any], measured: Collection[str] | None) -> dict[str, Any]:
    """What decides which items of a test set are answered, beside its data: where long ones are left out, how long.

    A training that failed may be mended with another ``cutoff_len``; cells that are measured would then stand beside
    ones of other items.

    Args:
        record: ``recipe`` and ``stream`` as in ``run.json``.
        measured: From `measured_tasks`; None for all tasks.

    Returns:
        Measured task -> its ``cutoff_len``; nothing where long prompts are errors.
    """
    recipe = record["recipe"]
    if (recipe["cl"].get("eval") or {}).get("too_long") != "drop":
        return {}
    own = recipe["cl"].get("task_overrides") or {}
    return {
        task["name"]: {**recipe, **(task.get("overrides") or {}), **own.get(task["name"], {})}.get(_CUTOFF)
        for task in record["stream"]["tasks"]
        if measured is None or task["name"] in measured
    }
