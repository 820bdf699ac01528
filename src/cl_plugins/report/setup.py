"""What a run was trained and tested with, resolved task by task: what tells recipes apart, and how labels name them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.secrets import is_secret, masked
from ..config import ReplayConfig
from ..records.told import entry_hash
from .run_data import Run
from .text import shorten


#: Host keys that say where and how a run was carried out, or which repetition it is, but not what was trained.
_REPETITION = frozenset(
    "seed data_seed output_dir overwrite_output_dir overwrite_cache logging_dir logging_steps run_name report_to plot_loss "
    "save_steps save_strategy save_total_limit disable_tqdm cache_dir dataset dataset_dir media_dir log_level "
    "preprocessing_num_workers dataloader_num_workers ddp_timeout".split()
)
#: Keys of the ``cl`` block that are no part of the recipe, or are resolved into something else here.
_APART = frozenset("stream order order_seed restart stop_after keep method replay task_overrides carry_from".split())
_REPLAY = {field.name: field.default for field in dataclasses.fields(ReplayConfig)}
_CAPACITY = ("capacity_per_task", "capacity_total")
_WIDTH = 28  # columns of one value in a label


@dataclass(frozen=True)
class Value:
    """One setting.

    Attributes:
        same: What two runs must have in common here to be repetitions of each other.
        shown: The value as a label shows it.
    """

    same: str
    shown: str


@dataclass(frozen=True)
class Setup:
    """What a run was trained and tested with.

    Attributes:
        method: Name of the method.
        tasks: The tasks in the order of the stream.
        options: All options of the method that are known.
        told: Those that are not the default, for the label.
        replay: The settings of replay; empty where no sample is kept.
        common: Settings of the whole run.
        by_task: Setting to task to value: the host's keys after the stream's and the recipe's overrides, lengths of
            answers, columns and data.
        imported: Of weights that were trained elsewhere: one hash over their files. Their recipe says nothing of the training
            but the shape of what was trained.
    """

    method: str
    tasks: tuple[str, ...]
    options: Mapping[str, Value]
    told: Mapping[str, Value]
    replay: Mapping[str, Any]
    common: Mapping[str, Value]
    by_task: Mapping[str, Mapping[str, Value]]
    imported: str = ""

    @property
    def identity(self) -> str:
        """Equal for two runs whose resolved recipes differ in nothing but seed, task order, places and logging."""
        parts = [sorted((key, value.same) for key, value in each.items()) for each in (self.options, self.common)]
        tasks = sorted(
            (key, task, value.same) for key, values in self.by_task.items() for task, value in values.items()
        )
        return repr((self.method, *parts, sorted(self.replay.items()), tasks, self.imported))

    @property
    def replay_text(self) -> str:
        """Replay as a label names it, such as ``replay 20/task (herding)``; empty without replay."""
        if not self.replay:
            return ""
        total, per_task = self.replay.get("capacity_total"), self.replay.get("capacity_per_task")
        words = []
        for key, value in self.replay.items():
            if key in _CAPACITY or (key in _REPLAY and value == _REPLAY[key] and key != "ratio"):
                continue
            if key in ("policy", "selection", "mixing"):
                if value != "ratio":  # the ratio itself is told
                    words.append(str(value))
            elif key != "ratio" or self.replay.get("mixing") == "ratio":
                words.append(f"{key} {_brief(value)}")
        kept = f"replay {total}" if total else f"replay {per_task}/task"
        return f"{kept} ({', '.join(words)})" if words else kept


def setup_of(run: Run) -> Setup | None:
    """What a run was trained and tested with, or ``None`` where it has recorded no recipe.

    Args:
        run: The run.
    """
    recipe = run.info.get("recipe")
    if not isinstance(recipe, Mapping) or not recipe:
        return None
    block = recipe.get("cl") or {}
    replay = {key: value for key, value in (block.get("replay") or {}).items() if value is not None}
    enabled = any(replay.get(key) for key in _CAPACITY)
    options, told = _options(run, block)
    imported = run.info.get("imported") or {}
    return Setup(
        run.method,
        run.tasks,
        options,
        told,
        replay if enabled else {},
        _common(run, recipe, block),
        _by_task(run, recipe, block),
        str(imported["sha256"]) if imported.get("tasks") is not None else "",
    )


def _options(run: Run, block: Mapping[str, Any]) -> tuple[dict[str, Value], dict[str, Value]]:
    """All known options of the method, and those that are not the default.

    A run that has not recorded the defaults tells the options that its recipe gives.
    """
    method = block.get("method")
    given = dict(_flat({k: v for k, v in method.items() if k != "name"})) if isinstance(method, Mapping) else {}
    resolved = {**given, **dict(_flat(run.info.get("method_options")))}
    defaults = dict(_flat(run.info.get("method_defaults")))
    known = run.info.get("method_defaults") is not None
    told = {
        key: _value(value)
        for key, value in resolved.items()
        if (_same(value) != _same(defaults.get(key)) if known else key in given)
    }
    return {key: _value(value) for key, value in {**defaults, **resolved}.items()}, told


def _common(run: Run, recipe: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Value]:
    """Base, settings of the ``cl`` block, and which tasks there are."""
    found: dict[str, Value] = {}
    for key, value in block.items():
        if key in _APART or is_secret(str(key)):
            continue
        if key == "eval" and isinstance(
            value, Mapping
        ):  # the longest answer stands with each task; probes change nothing
            value = {k: v for k, v in value.items() if k not in ("max_new_tokens", "probes")}
        found |= {name: _value(each) for name, each in _flat({key: value})}
    if block.get("carry_from") is not None:
        # Another seed begins with the carry of that seed, so the place says nothing.
        began = sorted((run.info.get("began_with") or {}).get("tasks") or ())
        found["carry_from"] = Value(repr(began), _brief(block["carry_from"]))
    model = recipe.get("model_name_or_path")
    if model is not None:
        found["model_name_or_path"] = Value(str((run.info.get("base") or {}).get("sha256") or model), _brief(model))
    names = sorted(run.tasks), sorted(run.test_only)
    found["tasks"] = Value(repr(names), shorten("+".join(run.tasks), _WIDTH))
    return found


def _by_task(run: Run, recipe: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, dict[str, Value]]:
    """The host's keys of each task, and what its entry of the stream says."""
    common = {key: value for key, value in recipe.items() if key not in ("cl", "model_name_or_path")}
    entries = {str(task.get("name")): task for task in (run.info.get("stream") or {}).get("tasks") or ()}
    longest = (block.get("eval") or {}).get("max_new_tokens")
    data = run.info.get("data") or {}
    found: dict[str, dict[str, Value]] = {}
    for name in run.tasks:
        entry = entries.get(name, {})
        own = {**(entry.get("overrides") or {}), **((block.get("task_overrides") or {}).get(name) or {})}
        keys = {key: value for key, value in _flat({**common, **own}) if key.split(".")[0] not in _REPETITION}
        steps = keys.get("max_steps")
        if isinstance(steps, int | float) and steps > 0:
            keys.pop("num_train_epochs", None)  # the number of steps decides alone
        values = {key: _value(value) for key, value in keys.items()}
        tested = {"eval.max_new_tokens": entry.get("max_new_tokens") or longest}
        tested["modality"] = entry.get("modality")
        values |= {key: _value(value) for key, value in tested.items() if value is not None}
        if entry.get("options_column") is not None:  # a pack of another site has the hash of its name
            values["options_column"] = Value(entry_hash(entry["options_column"]), _brief(entry["options_column"]))
        for key, sets in (("training data", entry.get("train")), ("test data", entry.get("test"))):
            if sets:
                values[key] = _data(name, list(sets), data)
        for key, value in values.items():
            found.setdefault(key, {})[name] = value
    return found


def content_of(run: Run, task: str, key: str) -> str | None:
    """One hash over the recorded content of a task's data sets, whatever their files are called; ``None`` without a record.

    Args:
        run: The run.
        task: The task.
        key: ``train``, ``valid`` or ``test``, as the stream's entry has it.
    """
    entries = (run.info.get("stream") or {}).get("tasks") or ()
    names = next((entry.get(key) for entry in entries if entry.get("name") == task), None) or ()
    recorded = run.info.get("data") or {}
    if not names or any(of_data_set(recorded, task, name)[1] is None for name in names):
        return None
    return _data(task, names, recorded).same


def of_data_set(recorded: Mapping[str, Any], task: str, name: str) -> tuple[str, Any]:
    """Under which key a run has recorded a data set of a task, and what; a task may have its own place for it.

    Args:
        recorded: ``data`` of ``run.json``.
        task: The task.
        name: The data set.
    """
    key = f"{task}/{name}" if f"{task}/{name}" in recorded else name
    return key, recorded.get(key)


def leaves(recorded: Any) -> list[str]:
    """The values in a record of a data set, without the names of files and of columns, as packs of other sites tell them.

    Args:
        recorded: The record.
    """
    if isinstance(recorded, Mapping):
        named = {key: entry_hash(recorded[key]) for key in ("entry", "function") if key in recorded}
        recorded = {**recorded, **named}
    return sorted(str(leaf) for _, leaf in _flat(recorded))


def _data(task: str, names: Sequence[str], recorded: Mapping[str, Any]) -> Value:
    """Data sets of a task by their content where it was recorded, else by their names."""
    found = {name: of_data_set(recorded, task, name)[1] for name in names}
    parts = [name if found[name] is None else leaves(found[name]) for name in names]
    digest = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()
    return Value(digest, digest[:6])


def _value(value: Any) -> Value:
    return Value(_same(value), _brief(value))


def _same(value: Any) -> str:
    """Equal for numbers that are written differently: YAML 1.1 reads ``1e-4`` as a text."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return repr(value)
    try:
        return repr(float(value))
    except (ValueError, OverflowError):
        return repr(value)


def _brief(value: Any) -> str:
    """A value in a label: of a path its last part, of a number what it needs."""
    if isinstance(value, str):
        return shorten(value.rstrip("/").rsplit("/", 1)[-1], _WIDTH)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple) and all(isinstance(each, str | int | float) for each in value):
        return shorten("+".join(map(_brief, value)), _WIDTH)
    return shorten(f"{value:.6g}" if isinstance(value, float) else str(value), _WIDTH)


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names; without credentials, and without null, which is as good as absent."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if is_secret(str(key)):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", masked(value)
