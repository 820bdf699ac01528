"""In which tasks the runs of a comparison were trained or tested on other data, by what they recorded of its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .notes import counted
from .run_data import Run
from .setup import content_of, leaves, of_data_set
from .text import listing


#: Stands before a score whose test set is another one in another run.
MARK = "§"
MARK_NOTE = f"{MARK} Not comparable: not all runs were tested on the same items."
_PROBE = "probe:"
_KINDS = (("test", "test data"), ("train", "training data"), ("valid", "validation data"))
_SHOWN = 3  # names of runs with the same data

#: A run with the name of its group and its own.
Named = tuple[Run, str, str]


def unlike_tests(runs: Sequence[Run], tasks: Sequence[str], probes: Sequence[str] = ()) -> tuple[str, ...]:
    """The tasks and probes that not all runs were tested on with the same items.

    Args:
        runs: The runs.
        tasks: The tasks of the comparison.
        probes: Its probes.
    """
    found = [task for task in tasks if _apart(runs, task, "test") or len(_counts(runs, task)) > 1]
    return (*found, *(name for name in probes if len({_probe(run, name) for run in runs} - {None}) > 1))


def data_remarks(runs: Sequence[Named], tasks: Sequence[str], probes: Sequence[str]) -> Iterator[str]:
    """Sentences on data that differ, and on means over runs that were tested on different items.

    Args:
        runs: The runs.
        tasks: The tasks of the comparison.
        probes: Its probes.
    """
    only = [run for run, _, _ in runs]
    sized = [task for task in tasks if len(_counts(only, task)) > 1]
    if sized:
        told = [f"{task} ({listing(map(str, _counts(only, task)))})" for task in sized]
        yield f"The runs were tested on different numbers of items: {counted(sized, listing(told))}."
    for key, kind in _KINDS:
        sides: dict[tuple[str, ...], list[str]] = {}
        for task in tasks:
            if _apart(only, task, key):
                sides.setdefault(tuple(_sides(runs, task, key)), []).append(task)
        for who, names in sides.items():
            which = "different data" if len(who) > _SHOWN else "; ".join(who)
            yield f"The {kind} of {counted(names, listing(names))} differ ({which})."
    apart = unlike_tests(only, (), probes)
    if apart:
        yield f"The data of the probes differ: {listing(apart)}."
    for label in dict.fromkeys(label for _, label, _ in runs):
        yield from pooled_remark(label, [run for run, own, _ in runs if own == label], tasks, probes)
    if len({_unnamed(run) for run in only} - {()}) > 1:
        yield "The runs recorded different data hashes."


def pooled_remark(label: str, runs: Sequence[Run], tasks: Sequence[str], probes: Sequence[str] = ()) -> list[str]:
    """The sentence on a row whose runs were tested on different items, as far as one name was given to them; or nothing.

    Args:
        label: The name.
        runs: The runs of the row.
        tasks: The tasks of the comparison.
        probes: Its probes.
    """
    apart = unlike_tests(runs, tasks, probes)
    told = f"{label}: means over runs that were tested on different items of {counted(apart, listing(apart))}."
    return [told] if apart else []


def _counts(runs: Sequence[Run], task: str) -> list[int]:
    """The numbers of items of a test; one that was not measured yet has none."""
    return list(dict.fromkeys(run.n[task] for run in runs if run.n.get(task)))


def _apart(runs: Sequence[Run], task: str, key: str) -> bool:
    return len({content_of(run, task, key) for run in runs} - {None}) > 1


def _sides(runs: Sequence[Named], task: str, key: str) -> Iterator[str]:
    """The names of the runs with each content: of their groups, or their own where a group has several contents."""
    found: dict[str, list[Named]] = {}
    for one in runs:
        content = content_of(one[0], task, key)
        if content is not None:
            found.setdefault(content, []).append(one)
    labels = [{label for _, label, _ in side} for side in found.values()]
    mixed = sum(map(len, labels)) > len(set().union(*labels))
    for side in found.values():
        names = list(dict.fromkeys(name if mixed else label for _, label, name in side))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"{', '.join(names[:_SHOWN])}{more}"


def _probe(run: Run, name: str) -> str | None:
    """The recorded content of a probe's data."""
    found = [repr(leaves(each)) for key, each in _data(run).items() if key.startswith(f"{_PROBE}{name}/")]
    return repr(sorted(found)) if found else None


def _unnamed(run: Run) -> tuple[str, ...]:
    """The recorded content of data sets that no task of the run's stream names, as in runs that recorded no stream."""
    data = _data(run)
    entries = (run.info.get("stream") or {}).get("tasks") or ()
    named = {
        of_data_set(data, str(e.get("name")), name)[0]
        for e in entries
        for key, _ in _KINDS
        for name in e.get(key) or ()
    }
    return tuple(
        sorted(repr(leaves(each)) for key, each in data.items() if key not in named and not key.startswith(_PROBE))
    )


def _data(run: Run) -> Mapping[str, Any]:
    return run.info.get("data") or {}
