"""The name of each run's group: its method with all that is not the default, and what sets its recipe apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .run_data import Run
from .setup import Setup, Value, setup_of


SHOWN_KEYS = 3
_TESTS = "test data"
_SEVERAL = 4  # values of a key that a label lists


def labels(runs: Sequence[Run]) -> list[str]:
    """A group's name for each run; equal names are repetitions of one recipe.

    The name is the method, its options that are not the default, replay, and the settings in which runs of that name
    differ: ``ewc (weight=10, learning_rate=0.001) + replay 20/task``.

    Args:
        runs: The runs.
    """
    setups = [setup_of(run) for run in runs]
    known: dict[str, Setup] = {}
    for setup in setups:
        # Of two runs with equal options, one may write out a default.
        if setup is not None and (setup.identity not in known or len(setup.told) < len(known[setup.identity].told)):
            known[setup.identity] = setup
    names = _names(list(known.values()))
    found = []
    for run, setup in zip(runs, setups, strict=True):
        if setup is not None:
            found.append(names[setup.identity])
        else:
            recorded = any(other is not None and other.method == run.method for other in setups)
            found.append(f"{run.method} (recipe not recorded)" if recorded else run.method)
    return found


def differences(setups: Sequence[Setup], setup: Setup) -> list[str]:
    """The settings of ``setup`` in which the given ones differ, as ``key=value``.

    Options and replay are left out. A setting of single tasks stands once where all tasks have the same value.

    Args:
        setups: Several of one method, ``setup`` among them.
        setup: The one to describe.
    """
    found = []
    keys = {*(key for each in setups for key in each.common), *(key for each in setups for key in each.by_task)}
    for key in sorted(
        keys, key=lambda key: (key != _TESTS, key)
    ):  # first: other tests are other numbers, whatever else
        if key == "tasks" or key not in {k for each in setups for k in each.by_task}:
            if len({_same(each.common.get(key)) for each in setups}) > 1:
                found.append(f"{key}={_shown(setup.common.get(key))}")
            continue
        tables = [each.by_task.get(key, {}) for each in setups]
        # A task that one stream lacks is told by the key ``tasks``.
        tasks = [task for task in setup.tasks if all(task in each.tasks for each in setups)]
        apart = [task for task in tasks if len({_same(table.get(task)) for table in tables}) > 1]
        if apart:
            found.append(_of_tasks(key, setup.by_task.get(key, {}), apart, tables))
    return found


def _names(setups: Sequence[Setup]) -> dict[str, str]:
    """Identity to name."""
    found: dict[str, str] = {}
    for setup in setups:
        own = _own(setup)
        peers = [other for other in setups if _own(other) == own]
        told = [f"{key}={value.shown}" for key, value in setup.told.items()]
        apart = differences(peers, setup) if len(peers) > 1 else []
        shown = apart[:SHOWN_KEYS] + ([f"{len(apart) - SHOWN_KEYS} more"] if len(apart) > SHOWN_KEYS else [])
        words = ", ".join(told + shown + ([f"imported={setup.imported[:8]}"] if setup.imported else []))
        label = f"{setup.method} ({words})" if words else setup.method
        label += f" + {setup.replay_text}" if setup.replay else ""
        # Two recipes that differ only in what the label leaves out are numbered apart.
        taken = sum(other == label or other.startswith(f"{label} #") for other in found.values())
        found[setup.identity] = f"{label} #{taken + 1}" if taken else label
    return found


def _own(setup: Setup) -> tuple[object, ...]:
    """What a label says of a run whatever the other runs are."""
    told = tuple((key, value.shown) for key, value in setup.told.items())
    return setup.method, told, setup.replay_text, setup.imported


def _of_tasks(
    key: str, values: Mapping[str, Value], apart: Sequence[str], tables: Sequence[Mapping[str, Value]]
) -> str:
    """``key=60`` where each recipe has one value for all tasks, ``task.key=60`` for one task, ``key=60/60/160``."""
    uniform = all(len({_same(table.get(task)) for task in table}) <= 1 for table in tables)
    shown = [_shown(values.get(task)) for task in apart]
    if uniform:
        return f"{key}={next((word for word in shown if word != 'None'), 'None')}"
    if len(apart) == 1:
        return f"{apart[0]}.{key}={shown[0]}"
    distinct = list(dict.fromkeys(shown))
    if len(distinct) == 1:
        return f"{key}={distinct[0]}"
    return f"{key}={'/'.join(shown if len(shown) <= _SEVERAL else [shown[0], '..', shown[-1]])}"


def _same(value: Value | None) -> str | None:
    return None if value is None else value.same


def _shown(value: Value | None) -> str:
    return "None" if value is None else value.shown
