"""The records of a published result: a source, its tables, their entries, and how each task was scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import RecipeError
from ..evaluation.scorers import get_scorer


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
        definition: As text.
        kind: One of `KINDS`: the formula; ``None`` where this package has no such formula.
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
        rule: As text.
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
        provenance_of: Task to its own tag.
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
        seeds: How many runs a number is based on; empty where unknown.
        provenance: Tag to its meaning.
        notes: What a reader has to know.
        metrics: Key to metric.
        tables: The tables.
        inconsistencies: What `check.check_source` finds, as recorded in the file with a remark for each.
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


def _canonical(scorer: str) -> str:
    """The name that a scorer itself has; the given one where this version has no such scorer."""
    try:
        return get_scorer(scorer).name
    except RecipeError:
        return scorer
