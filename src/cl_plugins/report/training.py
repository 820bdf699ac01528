"""Whether the runs of a comparison were trained alike: rates, lengths, batches and ranks; `data_apart` is about data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .labels import differences
from .run_data import Run
from .setup import Setup, setup_of
from .text import listing


#: Settings that make a comparison of methods unequal, and their names for the reader.
_SETTINGS = {
    "learning_rate": "learning_rate",
    "num_train_epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "lora_rank": "lora_rank",
    "max_samples": "max_samples",
}
_OF_LORA = frozenset({"lora_rank"})
_SHOWN = 3  # names of groups with one value


def unequal_training(runs: Sequence[tuple[Run, str]], tasks: Sequence[str]) -> Iterator[str]:
    """Sentences on groups that were trained elsewhere, and on the settings of training in which the others differ.

    Args:
        runs: Each run with the name of its group.
        tasks: The tasks of the comparison.
    """
    setups: dict[str, Setup] = {}
    for run, label in runs:
        setup = setup_of(run)
        if setup is not None:
            setups.setdefault(label, setup)
    found = []
    for key, name in _SETTINGS.items():
        values: dict[str, list[str]] = {}
        told: dict[str, str] = {}
        for label, setup in setups.items():
            full = any(value.shown == "full" for value in setup.by_task.get("finetuning_type", {}).values())
            if (key in _OF_LORA and full) or (key not in _OF_LORA and setup.imported):
                continue
            same, shown = _over_tasks(setup, key, tasks)
            values.setdefault(same, []).append(label)
            told[same] = shown
        if len(values) > 1:
            parts = [f"{told[same]} ({_names(labels)})" for same, labels in values.items()]
            found.append(f"{name} {listing(parts)}")
    elsewhere = [label for label, setup in setups.items() if setup.imported]
    if elsewhere:
        yield f"Trained elsewhere, with rates, lengths, batches and data that are not known here: {_names(elsewhere)}."
    if found:
        yield f"Training is not equal: {'; '.join(found)}."


def mixed_recipes(runs: Sequence[tuple[Run, str]]) -> Iterator[str]:
    """A sentence for each name that was given to runs of one method whose recipes differ.

    Args:
        runs: Each run with the name it was given.
    """
    groups: dict[str, dict[str, Setup]] = {}
    for run, label in runs:
        setup = setup_of(run)
        if setup is not None:
            groups.setdefault(label, {})[setup.identity] = setup
    for label, found in groups.items():
        setups = list(found.values())
        if len(setups) > 1 and len({setup.method for setup in setups}) == 1:
            keys = [word.partition("=")[0] for word in differences(setups, setups[0])]
            keys += [key for key in setups[0].options if len({_option(setup, key) for setup in setups}) > 1]
            keys += ["replay"] if len({repr(setup.replay) for setup in setups}) > 1 else []
            yield f"{label}: one name for runs of different recipes ({', '.join(dict.fromkeys(keys))})."


def _option(setup: Setup, key: str) -> str | None:
    return setup.options[key].same if key in setup.options else None


def _over_tasks(setup: Setup, key: str, tasks: Sequence[str]) -> tuple[str, str]:
    """A setting on the compared tasks: what tells it apart, and how it is shown."""
    values = setup.by_task.get(key, {})
    found = [values.get(task) for task in tasks]
    same = repr([None if value is None else value.same for value in found])
    shown = list(dict.fromkeys("not set" if value is None else value.shown for value in found))
    return same, "/".join(shown) if len(shown) <= _SHOWN else f"{shown[0]}/../{shown[-1]}"


def _names(labels: Sequence[str]) -> str:
    """The first few names of groups, and how many more there are."""
    if len(labels) <= _SHOWN:
        return ", ".join(labels)
    return f"{', '.join(labels[:_SHOWN])} and {len(labels) - _SHOWN} more"
