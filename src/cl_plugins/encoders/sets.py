"""What the data sets of a recipe with ``encoders:`` say against each other: modalities that are missing, other channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem
from ..base.logs import logger
from ..base.schema import nearest
from ..contract.host import ENCODERS
from ..crossmodal.inputs import EncoderSpec
from ..crossmodal.tables import Names, column_names, shown
from .data import Record, RecordSet, files_in


_SHOWN = 5  # files with other channels


def modality_problems(
    trained: Mapping[str, Sequence[RecordSet]], tested: Mapping[str, Sequence[RecordSet]], *, whole: bool
) -> list[Problem]:
    """Encoders whose modality no training record of any task has; what single tasks lack is logged.

    Args:
        trained: Task -> its training sets.
        tested: Task -> its test sets.
        whole: Whether the tasks are all that the model learns; else another site may have the modality.
    """
    specs = _specs([*trained.values(), *tested.values()])
    missing: dict[str, list[str]] = {name: [] for name in specs}
    fields: dict[str, None] = {}
    known = bool(trained)
    for kind, tasks in (("training", trained), ("test", tested)):
        for task, sets in tasks.items():
            records = _records(sets)
            if not records:  # nothing to learn here, or it cannot be read, which is told elsewhere
                known = known and kind == "test"
                continue
            own = dict.fromkeys(str(key) for record in records for key in record if key not in ("id", "label"))
            fields |= own
            for name in specs:
                if all(record.get(name) is None for record in records):
                    if kind == "training":
                        missing[name].append(task)
                    near = nearest(name, [field for field in own if field not in specs])
                    what = "task '%s': no %s record has the modality %s, which is masked there.%s"
                    logger.warning(what, task, kind, name, f" {near}" if near else "")
    if not (known and whole):
        return []
    found = []
    for name, tasks_without in missing.items():
        if len(tasks_without) == len(trained):
            others = [field for field in fields if field not in specs]
            fix = f"{nearest(name, others)} Name an encoder as the field of the records: {', '.join(fields)}.".strip()
            found.append(Problem(f"{ENCODERS}.{name}", "is a modality that no training record has.", fix))
    return found


def channel_problems(sets: Sequence[RecordSet]) -> list[Problem]:
    """Tables of signals whose columns have other names, or another order, than those of the first one.

    Args:
        sets: All data sets.
    """
    found: list[Problem] = []
    first: dict[str, tuple[Path, Names]] = {}
    for name, path in _tables(sets):
        names = _names(path)
        if names is None:
            continue
        file, expected = first.setdefault(name, (path, names))
        if names != expected:
            what = f"has the columns {shown(names)}, and {file} has {shown(expected)}."
            found.append(Problem(f"{path}, {name}", what, "Write the channels of all files in one order."))
            if len(found) == _SHOWN:
                break
    return found


def channel_names(sets: Sequence[RecordSet]) -> dict[str, Names]:
    """Modality -> names of its channels in the first table that has names.

    Args:
        sets: Training sets in the order of the stream.
    """
    found: dict[str, Names] = {}
    for name, path in _tables(sets):
        if name not in found and (names := _names(path)) is not None:
            found[name] = names
    return found


def _tables(sets: Sequence[RecordSet]) -> Iterator[tuple[str, Path]]:
    """Modality and place of every table of a signal, each once."""
    seen = set()
    for each in sets:
        signals = [name for name, spec in each.specs.items() if spec.kind == "signal"]
        for record in _records([each]) if signals else ():
            for name in signals:
                for file in files_in(record.get(name)):
                    path = each.folder / file
                    if path.suffix.lower() != ".npy" and path not in seen:
                        seen.add(path)
                        yield name, path


def _names(path: Path) -> Names | None:
    """The names in a table; None as well where it cannot be read, which is told when it is used."""
    try:
        return column_names(path)
    except (OSError, ValueError):
        return None


def _records(sets: Sequence[RecordSet]) -> list[Record]:
    """The records of sets that can be read, as they are written."""
    found: list[Record] = []
    for each in sets:
        try:
            found += each.raw()
        except DataError:
            return []
    return found


def _specs(groups: Sequence[Sequence[Any]]) -> Mapping[str, EncoderSpec]:
    return next((each.specs for sets in groups for each in sets), {})
