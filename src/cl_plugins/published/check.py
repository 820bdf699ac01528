"""Check whether the printed means of a source follow from its printed cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .derive import cells_of, derive, mean
from .records import PublishedEntry, PublishedMetric, PublishedTable, Source


@dataclass(frozen=True)
class Inconsistency:
    """A printed number that its cells do not give.

    Attributes:
        table: Key of the table.
        entry: Key of the entry.
        metric: Key of the metric.
        place: 1-based position of a number among several, or ``None``.
        printed: As printed.
        computed: From the cells, unrounded.
        truncation: Whether the source's own rule (scores cut to whole numbers first) gives what is printed.
    """

    table: str
    entry: str
    metric: str
    place: int | None
    printed: float
    computed: float
    truncation: bool


def check_source(source: Source) -> tuple[Inconsistency, ...]:
    """Every printed number of a source that follows neither from its cells nor from the numbers next to it.

    A mean of rounded numbers may differ from the rounded mean by one unit of the last place; the mean of a single
    number may not. Where cells are missing, BWT is checked against MFN and MFT of the same row, and MAA against the
    printed A_k.
    """
    found = []
    for table, entry in source.entries():
        unit = 10.0 ** -_decimals(entry)
        for key, value in entry.printed.items():
            metric = source.metrics[key]
            printed = value if isinstance(value, tuple) else (value,)
            computed, slack = _expected(metric, table, entry, unit)
            cut = derive(metric.kind, cells_of(table, entry).truncated(metric.truncate)) if metric.truncate else ()
            for index, (number, given) in enumerate(zip(printed, computed, strict=False)):
                single = metric.kind == "a_k" and index == 0
                if given is None or abs(number - given) <= (0 if single else slack) + 1e-9:
                    continue
                explained = bool(cut) and cut[index] is not None and abs(number - (cut[index] or 0)) <= unit / 2 + 1e-9
                place = index + 1 if isinstance(value, tuple) else None
                found.append(Inconsistency(table.key, entry.key, key, place, number, given, explained))
    return tuple(found)


def _expected(
    metric: PublishedMetric, table: PublishedTable, entry: PublishedEntry, unit: float
) -> tuple[tuple[float | None, ...], float]:
    """What a printed metric should be, and how far rounding may take it."""
    printed: Mapping[str, float | tuple[float, ...]] = entry.printed
    computed = derive(metric.kind, cells_of(table, entry))
    slack = unit if metric.kind != "bwt" else 1.5 * unit
    count = len(table.tasks)
    mft, mfn, stages = printed.get("mft"), printed.get("mfn"), printed.get("a_k")
    if metric.kind == "mean_of_orders":
        orders = printed.get("aa")
        computed = (mean(orders) if isinstance(orders, tuple) else None,)
    elif computed == (None,) and metric.kind == "bwt" and isinstance(mft, float) and isinstance(mfn, float):
        ratio = count / (count - 1)
        computed, slack = ((mfn - mft) * ratio,), unit / 2 * (2 * ratio + 1)
    elif computed == (None,) and metric.kind == "average" and isinstance(stages, tuple):
        computed = (mean(stages),)
    return computed, slack


def _decimals(entry: PublishedEntry) -> int:
    """Decimals of the printed metrics; JSON drops zeros at the end, so the longest one counts."""
    numbers = [n for value in entry.printed.values() for n in (value if isinstance(value, tuple) else (value,))]
    return max((len(repr(float(n)).partition(".")[2]) for n in numbers), default=2)
