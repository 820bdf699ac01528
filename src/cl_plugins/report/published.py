"""Results that others have published, as data: what was printed, how it is defined, and where it was read.

The files lie in ``benchmarks/published/`` of the repository, one per source, and inside the wheel in
``cl_plugins/report/published_data/``. Nothing is computed here; `published_check` says which printed numbers do not
follow from their cells, `published_compare` puts a run beside an entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem, RecipeError
from ..base.schema import nearest


FORMAT = 1
Numbers = tuple[float | None, ...]

#: What a printed metric may be the same as (``is`` in the files): our metrics, and three that only sources print.
KINDS = (
    *("a_k", "last", "average", "mft", "bwt", "mfn_minus_mft"),
    *("zero_shot_mean", "order_value", "mean_of_orders"),
)


@dataclass(frozen=True)
class PublishedMetric:
    """A metric as a source defines it.

    Attributes:
        key: Its key in the file.
        label: Its name in the source.
        definition: In words.
        kind: One of `KINDS`: the formula; ``None`` where none of ours is the same.
        truncate: Tasks whose scores are cut to whole numbers before the mean is taken.
    """

    key: str
    label: str
    definition: str
    kind: str | None = None
    truncate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """How a source scores a task.

    Attributes:
        rule: In words.
        scorers: Our scorers with the same rule; the first one is the one to use.
        metric: The metric of that scorer (``extra["metrics"]``) where it prints several; ``None`` for its score.
    """

    rule: str
    scorers: tuple[str, ...] = ()
    metric: str | None = None

    def covers(self, scorer: str) -> bool:
        """Whether a scorer (``name`` or ``name@version``) asks the same."""
        name = scorer.partition("@")[0]
        # A rule may have several names; `peer:<library>` alone finds the rule by the task.
        return any(
            name == ":".join(known.split(":")[:2]) or _canonical(name) == _canonical(known) for known in self.scorers
        )


@dataclass(frozen=True)
class PublishedEntry:
    """One row (or one matrix) of a table; scores 0-100 in the order of the table's tasks.

    Attributes:
        key: Name behind the slash of ``source/entry``.
        label: The name in the source.
        replay: Samples kept per task, 0 for none; ``None`` where it does not apply or is not known.
        zero_shot: Scores before any training.
        matrix: Row k holds the scores on the first k tasks after task k.
        final: Scores after the last task; the last row of ``matrix`` where there is one.
        diagonal: Scores right after each task's own training.
        printed: Metric to the printed number, or numbers.
        provenance: Tag of the source's ``provenance``.
        provenance_of: Task to a tag of its own.
        quoted: Where the source itself has the row from.
    """

    key: str
    label: str
    replay: int | None = None
    zero_shot: Numbers = ()
    matrix: tuple[tuple[float, ...], ...] = ()
    final: Numbers = ()
    diagonal: Numbers = ()
    printed: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    provenance: str = ""
    provenance_of: Mapping[str, str] = field(default_factory=dict)
    quoted: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """Entries over the same tasks, scored in the same way.

    Attributes:
        key: Its name within the source.
        title: What it is, with the number of the table in the source.
        stream: Name of our stream over the same tasks; ``None`` where there is none.
        base: The base model.
        tasks: Our names of the tasks, in the order in which they were learned.
        measures: Task to measure.
        entries: The rows.
    """

    key: str
    title: str
    stream: str | None
    base: str | None
    tasks: tuple[str, ...]
    measures: Mapping[str, Measure]
    entries: tuple[PublishedEntry, ...]


@dataclass(frozen=True)
class Source:
    """One publication.

    Attributes:
        key: Name before the slash of ``source/entry``.
        title: Title or name of the work.
        reference: Authors, venue, arXiv number, DOI and address, as far as known.
        read_in: Where the numbers were read.
        seeds: How many runs stand behind a number; empty where unknown.
        provenance: Tag to its meaning.
        notes: What a reader has to know.
        metrics: Key to metric.
        tables: The tables.
        inconsistencies: What `published_check` finds, as recorded in the file with a remark for each.
    """

    key: str
    title: str
    reference: str
    read_in: str
    seeds: str
    provenance: Mapping[str, str]
    notes: tuple[str, ...]
    metrics: Mapping[str, PublishedMetric]
    tables: tuple[PublishedTable, ...]
    inconsistencies: tuple[Mapping[str, Any], ...] = ()

    def entries(self) -> Iterator[tuple[PublishedTable, PublishedEntry]]:
        """Every entry with its table."""
        for table in self.tables:
            for entry in table.entries:
                yield table, entry


def published_dir() -> Path:
    """Where the files lie: inside an installed wheel, or in the checkout that an editable install points to.

    Raises:
        DataError: In neither place.
    """
    inside = Path(__file__).parent / "published_data"
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
        reference: For example ``li2025/inclora``; an entry may stand in several tables of a source.
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
        what = f"{name} has no entry {key!r}." if key else "names a source, but no entry of it."
        listed = ", ".join(f"{name}/{known}" for known in keys)
        raise RecipeError(Problem(where, what, f"{nearest(key, keys) if key else ''} Entries: {listed}.".strip()))
    return source, key


def _canonical(scorer: str) -> str:
    """The name that a scorer itself has; the given one where this version has no such scorer."""
    from ..evaluation.scorers import get_scorer

    try:
        return get_scorer(scorer).name
    except RecipeError:
        return scorer


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
        problems.append(Problem(str(path), f"has not the shape of a source ({type(error).__name__}: {error}).", fix))
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
            yield Problem(f"{where}: {table.key}", "names an entry twice.", "Give every entry a key of its own.")
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
