"""What the probes of runs have measured, as tables: drift against the zero-shot scores, and its end in a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.drift import final_drift
from ..records.results import ZERO_SHOT, DriftPart
from ..streams.probes import HARNESSES
from . import text, writing
from .run_data import Run
from .scores import scorer_word
from .tables import Entry, Table


NOTE = (
    "Difference: score minus zero-shot score, in points, with its 95 % interval (paired bootstrap over the items). "
    "Bold: the interval does not contain 0. Probes are no part of the metrics."
)


def probe_table(run: Run) -> Table | None:
    """One row per row of the matrix, and for every probe its score and the difference; ``None`` without probes."""
    if not run.probes:
        return None
    rows = []
    names = [row for row in run.row_names if any(row in probe.rows for probe in run.probes.values())]
    for row in names:
        label = {ZERO_SHOT: "zero-shot", "joint": "all tasks jointly"}.get(row, row.removeprefix("after_"))
        entries = [Entry(label)]
        for probe in run.probes.values():
            part = probe.rows.get(row)
            detail = text.interval((part.interval[0], part.interval[1])) if part is not None else ""
            entries.append(Entry(text.number(part.score if part is not None else None), detail=detail))
            entries.append(difference(part) if row != ZERO_SHOT else Entry(""))
        rows.append(tuple(entries))
    head = [column for name in run.probes for column in (name, f"Δ {name}")]
    units = [unit for probe in run.probes.values() for unit in (_unit(probe.scorer), "points")]
    first = "after training on" if run.joint is None else "trained on"
    rules = frozenset({0}) if names[:1] == [ZERO_SHOT] else frozenset()
    return Table((first, *head), tuple(rows), rules=rules, note=_note(run), units=(None, *units))


def difference(part: DriftPart | None, decimals: int = 2) -> Entry:
    """The difference to the zero-shot score, with its interval.

    Args:
        part: The score of a row; None where it was not measured.
        decimals: Of the difference.
    """
    if part is None or part.difference is None:
        return Entry(text.MISSING)
    ends = part.difference_interval
    shown = text.signed(part.difference, decimals)
    if ends is None:
        return Entry(shown)
    return Entry(f"{shown} {text.interval((ends[0], ends[1]))}", strong=ends[0] > 0 or ends[1] < 0)


def _unit(scorer: str) -> str:
    """What a probe's score is: the scorer's word, or the metric of a harness without its filter."""
    if scorer.partition(":")[0] not in HARNESSES:
        return scorer_word(scorer)
    return scorer.rpartition("@")[0].rpartition(":")[2].partition(",")[0]


def probes_csv(run: Run) -> bytes:
    """One line per row and probe, unrounded."""
    head = ["row", "probe", "scorer", "score", "low", "high", "n", "max_items"]
    rows: list[list[object]] = [[*head, "difference", "difference_low", "difference_high"]]
    for row in run.row_names:
        for name, probe in run.probes.items():
            part = probe.rows.get(row)
            if part is not None:
                low, high = part.difference_interval or (None, None)
                known = [probe.scorer, part.score, *part.interval, probe.n, part.max_items]
                rows.append([row, name, *known, part.difference, low, high])
    return writing.csv_bytes(rows)


def shared_probes(runs: Sequence[Run]) -> tuple[str, ...]:
    """The probes that all runs have measured at their end, by the same scorer on as many items.

    Args:
        runs: The runs of a comparison.
    """
    found = []
    for name, probe in runs[0].probes.items():
        others = [run.probes.get(name) for run in runs]
        same = all(o is not None and (o.scorer, o.n) == (probe.scorer, probe.n) for o in others)
        if same and all(end_drift(run, name) is not None for run in runs if run.stream_trained):
            found.append(name)
    return tuple(found)


def end_drift(run: Run, name: str) -> DriftPart | None:
    """The part of a probe after the last task of a finished stream, if its difference is known.

    Args:
        run: The run.
        name: Name of the probe.
    """
    probe = run.probes.get(name)
    found = final_drift(probe) if probe is not None else None
    if found is None or not run.stream_trained or found[0] != run.row_names[-1] or found[1].difference is None:
        return None
    return found[1]


def _note(run: Run) -> str:
    limits = {
        name: part.max_items
        for name, probe in run.probes.items()
        for part in probe.rows.values()
        if part.max_items is not None and probe.n >= part.max_items
    }
    items = text.listing(f"{name} {probe.n}" for name, probe in run.probes.items())
    limited = f" Limited by cl.eval.max_items: {text.listing(limits)}." if limits else ""
    return f"{NOTE} Items: {items}.{limited}"
