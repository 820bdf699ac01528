"""Read the files of published results and check that their parts fit together.

The files are in ``benchmarks/published/`` of the repository, one per source, and in ``cl_plugins/published/data/`` of
the wheel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem, RecipeError
from ..base.schema import nearest
from .records import KINDS, Measure, PublishedEntry, PublishedMetric, PublishedTable, Source


FORMAT = 1


def published_dir() -> Path:
    """Return the folder of the files: inside an installed wheel, or in the checkout that an editable install points to.

    Raises:
        DataError: In neither place.
    """
    inside = Path(__file__).parent / "data"
    checkout = Path(__file__).resolve().parents[3] / "benchmarks" / "published"
    for place in (inside, checkout):
        if place.is_dir():
            return place
    raise DataError(Problem(str(inside), "the published results are missing.", "Install the package again."))


def read_published(directory: Path | None = None) -> tuple[Source, ...]:
    """Read all sources, sorted by key.

    Args:
        directory: Folder of the files; those of the package by default.

    Raises:
        DataError: A file is damaged; lists every problem.
    """
    problems: list[Problem] = []
    found = []
    for path in sorted((directory or published_dir()).glob("*.json")):
        source = _source(path, problems)
        if source is not None:
            found.append(source)
    if problems:
        raise DataError(problems)
    return tuple(found)


def find_published(reference: str, sources: Sequence[Source] | None = None) -> tuple[Source, str]:
    """The source that ``source/entry`` names, and the key of the entry.

    Args:
        reference: For example ``li2025/inclora``; an entry may be in several tables of a source.
        sources: What to look in; by default everything there is.

    Raises:
        RecipeError: There is no such source or entry; the message names the nearest.
    """
    sources = read_published() if sources is None else sources
    name, _, key = reference.partition("/")
    where = f"--with {reference}"
    source = next((source for source in sources if source.key == name), None)
    if source is None:
        known = [source.key for source in sources]
        fix = f"{nearest(name, known)} Sources: {', '.join(known)} (`cl-plugins list published`).".strip()
        raise RecipeError(Problem(where, f"there is no source {name!r}.", fix))
    keys = list(dict.fromkeys(entry.key for _, entry in source.entries()))
    if key not in keys:
        what = f"{name} has no entry {key!r}." if key else "names a source without an entry."
        listed = ", ".join(f"{name}/{known}" for known in keys)
        raise RecipeError(Problem(where, what, f"{nearest(key, keys) if key else ''} Entries: {listed}.".strip()))
    return source, key


def _source(path: Path, problems: list[Problem]) -> Source | None:
    """Read one file; ``None`` where it is damaged."""
    fix = "Restore the file."
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(Problem(str(path), f"cannot be read ({error}).", fix))
        return None
    before = len(problems)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or raw.get("key") != path.stem:
        problems.append(Problem(str(path), f"is not a source of format {FORMAT} with the key {path.stem!r}.", fix))
        return None
    try:
        metrics = {key: _metric(key, value) for key, value in raw["metrics"].items()}
        source = Source(
            key=raw["key"],
            title=raw["title"],
            reference=_reference(raw),
            read_in=raw["read_in"],
            seeds=raw["seeds"] or "",
            provenance=raw["provenance"],
            notes=tuple(raw["notes"]),
            metrics=metrics,
            tables=tuple(_table(table) for table in raw["tables"]),
            inconsistencies=tuple(raw["inconsistencies"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(
            Problem(str(path), f"does not have the format of a source ({type(error).__name__}: {error}).", fix)
        )
        return None
    problems.extend(_faults(source, str(path)))
    return source if len(problems) == before else None


def _reference(raw: Mapping[str, Any]) -> str:
    """Authors, venue and addresses in one line."""
    parts = [raw["authors"], raw["venue"], f"arXiv {raw['arxiv']}" if raw["arxiv"] else None]
    parts += [f"doi {raw['doi']}" if raw["doi"] else None, raw["url"]]
    parts += [f"accessed {raw['accessed']}" if raw["accessed"] else None]
    return ", ".join(part for part in parts if part)


def _metric(key: str, raw: Mapping[str, Any]) -> PublishedMetric:
    return PublishedMetric(key, raw["label"], raw["definition"], raw["is"], tuple(raw.get("truncate", ())))


def _table(raw: Mapping[str, Any]) -> PublishedTable:
    """A table; the measure ``*`` stands for every task."""
    tasks = tuple(raw["tasks"])
    measures = {
        task: Measure(value["rule"], tuple(value["scorers"]), value.get("metric"))
        for name, value in raw["measures"].items()
        for task in (tasks if name == "*" else (name,))
    }
    entries = tuple(_entry(entry, raw["provenance"]) for entry in raw["entries"])
    return PublishedTable(raw["key"], raw["title"], raw["stream"], raw["base"], tasks, measures, entries)


def _entry(raw: Mapping[str, Any], provenance: str) -> PublishedEntry:
    matrix = tuple(tuple(row) for row in raw.get("matrix", ()))
    return PublishedEntry(
        key=raw["key"],
        label=raw["label"],
        replay=raw["replay"],
        zero_shot=tuple(raw.get("zero_shot", ())),
        matrix=matrix,
        final=matrix[-1] if matrix else tuple(raw.get("final", ())),
        diagonal=tuple(row[-1] for row in matrix) if matrix else tuple(raw.get("diagonal", ())),
        printed={k: tuple(v) if isinstance(v, list) else v for k, v in raw.get("printed", {}).items()},
        provenance=raw.get("provenance", provenance),
        provenance_of=raw.get("provenance_of", {}),
        quoted=raw.get("quoted", ""),
    )


def _faults(source: Source, where: str) -> Iterator[Problem]:
    """What does not fit together in a file."""
    for metric in source.metrics.values():
        if metric.kind is not None and metric.kind not in KINDS:
            yield Problem(f"{where}: {metric.key}", f"{metric.kind!r} is none of {', '.join(KINDS)}.", "")
    for table in source.tables:
        keys = [entry.key for entry in table.entries]
        if len(set(keys)) < len(keys):
            yield Problem(f"{where}: {table.key}", "names an entry twice.", "Give every entry its own key.")
        if set(table.measures) - set(table.tasks) or (table.stream and set(table.measures) != set(table.tasks)):
            yield Problem(f"{where}: {table.key}", "needs a measure for each of its tasks.", "Add what is missing.")
        for entry in table.entries:
            here = f"{where}: {table.key}/{entry.key}"
            count = len(table.tasks)
            for name in ("zero_shot", "final", "diagonal"):
                if len(getattr(entry, name)) not in (0, count):
                    yield Problem(f"{here}.{name}", f"needs {count} numbers or nulls.", "One per task.")
            if [len(row) for row in entry.matrix] not in ([], list(range(1, count + 1))):
                yield Problem(f"{here}.matrix", f"needs rows of 1 to {count} numbers.", "One row per trained task.")
            tags = {entry.provenance, *entry.provenance_of.values()}
            if not tags <= set(source.provenance):
                yield Problem(here, f"uses an unknown provenance: {sorted(tags)}.", "Explain it in `provenance`.")
            if not set(entry.printed) <= set(source.metrics):
                yield Problem(here, f"prints an undefined metric: {sorted(entry.printed)}.", "Define it in `metrics`.")
            for value in _numbers(entry):
                if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                    yield Problem(here, f"{value!r} is not a number.", "")


def _numbers(entry: PublishedEntry) -> Iterator[Any]:
    """Every number of an entry."""
    for row in (entry.zero_shot, entry.final, entry.diagonal, *entry.matrix):
        yield from (value for value in row if value is not None)
    for printed in entry.printed.values():
        yield from printed if isinstance(printed, tuple) else (printed,)
