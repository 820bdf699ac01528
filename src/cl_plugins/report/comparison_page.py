"""Several runs in one table and one picture: files, and the table for the terminal."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..base.printable import printable
from . import data_apart, paired, scores, tables, text, writing
from .comparison_json import as_json
from .groups import METRICS, NO_METRIC, TASK_MEANS, Comparison, Group, Summary, latest_cell, read_comparison
from .run_data import METRIC_LABELS
from .tables import Entry, Table


def compare(
    run_dirs: Sequence[Path],
    out_dir: Path,
    names: Sequence[str] | None = None,
    write: writing.Write | None = None,
    after: str | None = None,
    baseline: str | None = None,
) -> list[Path]:
    """Write the comparison of several runs: one table in five forms, and one picture.

    Args:
        run_dirs: The ``output_dir`` of each run; the tasks that all of them have are compared, in any order.
        out_dir: Where the files go.
        names: A name per run; runs of equal name form one row. By default rows are methods, told apart by their recipes.
        write: Called with path and bytes for each file; by default each file is replaced in one step.
        after: Compares the runs as they stood after this task, see `read_comparison`; None for whole streams.
        baseline: The label of a row, or its method: adds the differences to it, see `paired.differences`.

    Returns:
        The files: ``compare.png``, ``.pdf``, ``.csv``, ``.tex``, ``.json``, ``.md`` and ``.html``.

    Raises:
        RunStateError: A run cannot be read or does not learn ``after``, or the runs cannot be compared; lists every
            problem. Or there is no row ``baseline``.
    """
    from .comparison_picture import compare_picture

    comparison = read_comparison(run_dirs, names, after)
    pairs = paired.differences(comparison, baseline) if baseline is not None else None
    picture = compare_picture(comparison)
    methods, runs = group_table(comparison), run_table(comparison)
    apart = paired_table(comparison, pairs) if pairs is not None else None
    page = {
        "title": f"Comparison on {_where(comparison)}",
        "comparison": comparison,
        "remarks": (*comparison.remarks, *(pairs.remarks if pairs is not None else ())),
        "groups": methods,
        "runs": runs,
        "paired": pairs,
        "apart": apart,
        "drift": drift_table(comparison),
        "missing": any(
            entry.text == text.MISSING
            for table in (methods, runs, apart)
            if table
            for row in table.rows
            for entry in row
        ),
        "caption": _caption(comparison),
        "interval": any(entry.half_width is not None for entry in _summaries(comparison)),
        "picture": writing.embedded(picture),
    }
    files = {
        **writing.pictures({"compare": picture}),
        "compare.csv": compare_csv(comparison),
        "compare.tex": compare_tex(comparison).encode("utf-8"),
        "compare.json": (json.dumps(as_json(comparison, pairs), indent=1, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        ),
        "compare.md": writing.render("compare.md.j2", page),
        "compare.html": writing.render("compare.html.j2", page),
    }
    return writing.write_all(Path(out_dir), files, write)


def _where(comparison: Comparison) -> str:
    """The streams, and the task after which they are compared."""
    streams = text.listing(dict.fromkeys(member.run.stream for member in comparison.members))
    return streams if comparison.after is None else f"{streams} after {comparison.after}"


def _caption(comparison: Comparison) -> str:
    """What the picture shows, and nothing that it does not."""
    measured = any(group.metrics[key].values for group in comparison.groups for key in METRICS)
    if comparison.many and not measured:
        return NO_METRIC
    found = _summaries(comparison)
    parts = (
        ["single runs as open dots, the mean as a diamond"] if any(len(entry.values) > 1 for entry in found) else []
    )
    parts = parts or ["a diamond for the run"]
    if any(entry.half_width is not None for entry in found):
        parts.append("its 95 % t-interval over runs as a line")
    if any(group.trivial.get(key) is not None for group in comparison.groups for key in TASK_MEANS):
        parts.append("the best answers that need no model as a dashed line")
    panels = "metric" if measured else "task"
    point = "" if comparison.after is None else f", after {comparison.after}"
    return f"One panel per {panels}{point}: {', '.join(parts)}."


def compare_table(
    run_dirs: Sequence[Path],
    names: Sequence[str] | None = None,
    width: int | None = None,
    colour: bool = False,
    ascii: bool = False,
    after: str | None = None,
    baseline: str | None = None,
) -> str:
    """The comparison for the terminal: metrics first, then the final score of each task.

    Args:
        run_dirs: The ``output_dir`` of each run.
        names: A name per run; runs of equal name form one row.
        width: Columns of the terminal; by default those of the current terminal, else 80.
        colour: Whether to use ANSI bold and dim.
        ascii: Whether to keep to ASCII.
        after: Compares the runs as they stood after this task, see `read_comparison`; None for whole streams.
        baseline: The label of a row, or its method: adds the differences to it, see `paired.differences`.

    Returns:
        Several lines, without a final newline.

    Raises:
        RunStateError: A run cannot be read or does not learn ``after``, the runs cannot be compared, or there is no row
            ``baseline``.
    """
    comparison = read_comparison(run_dirs, names, after)
    pairs = paired.differences(comparison, baseline) if baseline is not None else None
    width = width or shutil.get_terminal_size().columns
    parts = [] if after is None else [printable(text.wrap(f"Comparison on {_where(comparison)}", width))]
    parts += [tables.to_terminal(group_table(comparison, decimals=1), width, colour, ascii)]
    if pairs is not None:
        parts.append(printable(text.wrap(f"Differences to {pairs.baseline}", width)))
        parts.append(tables.to_terminal(paired_table(comparison, pairs, decimals=1), width, colour, ascii))
    drift = drift_table(comparison, decimals=1)
    if drift is not None:
        title = f"Probes: change against zero-shot {'at the end' if after is None else f'after {after}'}"
        parts += [printable(text.wrap(title, width)), tables.to_terminal(drift, width, colour, ascii)]
    if any(member.run.unfinished for member in comparison.members):
        parts.append(tables.to_terminal(run_table(comparison, only_unfinished=True), width, colour, ascii))
    if any(entry.half_width is not None for entry in _summaries(comparison)):
        parts.append("± is half the 95 % t-interval over runs.")
    remarks = "\n".join(_told(comparison, pairs))
    parts.append(printable(text.wrap(text.plain_ascii(remarks) if ascii else remarks, width)))
    whole = "\n\n".join(part for part in parts if part)
    return text.plain_ascii(whole) if ascii else whole


def group_table(comparison: Comparison, decimals: int = 2) -> Table:
    """One row per group: number of runs, metrics, and the final score of each task unless there are too many."""
    rows = []
    for group in comparison.groups:
        count = group.finished
        unfinished = len(group.members) - count
        entries = [Entry(group.label), Entry(str(count), detail=f"+ {unfinished} †" if unfinished else "")]
        entries += [_entry(comparison, group, key, decimals) for key in (*METRICS, *_shown_tasks(comparison))]
        rows.append(tuple(entries))
    elsewhere = f"The final score of each of the {len(comparison.tasks)} tasks is in `compare.csv`."
    notes = [*_mark_notes(rows), *([elsewhere] if comparison.many else [])]
    return Table(
        ("method", "runs", *(METRIC_LABELS[key] for key in METRICS), *_shown_tasks(comparison)),
        tuple(rows),
        note=" ".join(notes),
        units=_units(comparison, 2),
    )


def paired_table(comparison: Comparison, pairs: paired.Paired, decimals: int = 2) -> Table:
    """One row per group but the baseline: number of pairs, and the differences of metrics and shown tasks."""
    rows = []
    found: list[Summary] = []
    for group in pairs.groups:
        shown = [*group.metrics.values(), *(group.tasks[task] for task in _shown_tasks(comparison))]
        entries = [
            _of_difference(summary, len(group.pairs), decimals, _apart(comparison, key))
            for key, summary in zip((*group.metrics, *_shown_tasks(comparison)), shown, strict=True)
        ]
        rows.append((Entry(group.label), Entry(str(len(group.pairs))), *entries))
        found += shown
    free = " (joint and independent models: of equal seed)" if any(group.by_seed for group in pairs.groups) else ""
    notes = [
        f"Each method minus {pairs.baseline}, in points, within pairs of runs of equal seed and task order{free}."
    ]
    if any(summary.half_width is not None for summary in found):
        notes.append("Mean ± half the 95 % t-interval over pairs, not corrected for the number of comparisons.")
    if any(paired.without_zero(summary) for summary in found):
        notes.append(paired.MARK_NOTE)
    notes += [note for note in _mark_notes(rows) if note == data_apart.MARK_NOTE]
    if any(group.metrics["forgetting"].values for group in pairs.groups):
        notes.append("Forgetting: lower is better.")
    if comparison.many:
        notes.append("The differences of the tasks are in `compare.json`.")
    head = ("method", "pairs", *(METRIC_LABELS[key] for key in METRICS), *_shown_tasks(comparison))
    return Table(head, tuple(rows), note=" ".join(notes), units=_units(comparison, 2))


def drift_table(comparison: Comparison, decimals: int = 2) -> Table | None:
    """One row per group: the change of every shared probe at the end; ``None`` where no probe is shared."""
    if not comparison.probes:
        return None
    rows = []
    for group in comparison.groups:
        entries = [
            _of_summary(group.drift[probe], group.finished, decimals, _apart(comparison, probe))
            for probe in comparison.probes
        ]
        rows.append((Entry(group.label), Entry(str(group.finished)), *entries))
    point = "the last task" if comparison.after is None else comparison.after
    note = f"Score after {point} minus zero-shot score, in points. Probes are no part of the metrics."
    note = " ".join([note, *_mark_notes(rows)])
    return Table(("method", "runs", *comparison.probes), tuple(rows), note=note)


def run_table(comparison: Comparison, only_unfinished: bool = False) -> Table:
    """One row per run: seed, task order where orders differ, metrics and scores with what an unfinished run has."""
    members = [member for member in comparison.members if member.run.unfinished or not only_unfinished]
    orders = len(comparison.orders) > 1
    rows = []
    for member in members:
        run = member.run
        entries = [Entry(member.name + (" †" if run.unfinished else "")), Entry(member.label)]
        entries += [Entry(_order(comparison, run.tasks))] if orders else []
        entries.append(Entry(str(run.seed) if run.seed is not None else text.MISSING))
        for key in METRICS:
            value = run.metrics[key].value if key in run.metrics else None
            entries.append(Entry(text.number(value), mark=_apart(comparison, key) if value is not None else ""))
        for task in _shown_tasks(comparison):
            cell = latest_cell(run, task)
            mark = _apart(comparison, task) if cell.score is not None else ""
            entries.append(Entry(text.number(cell.score), mark=mark + scores.mark(cell)))
        rows.append(tuple(entries))
    head = ["run", "method", *(["order"] if orders else []), "seed"]
    latest = "† Not complete." if comparison.many else "† Not complete: the latest score of each task is shown."
    notes = [latest] if any(m.run.unfinished for m in members) else []
    notes += _mark_notes(rows)
    if comparison.many:
        told = "The scores and the order of the tasks are" if orders else "The scores of the tasks are"
        notes.append(f"{told} in `compare.json`.")
    return Table(
        (*head, *(METRIC_LABELS[key] for key in METRICS), *_shown_tasks(comparison)),
        tuple(rows),
        left=3 if orders else 2,
        note=" ".join(notes),
        units=_units(comparison, len(head)),
    )


def _shown_tasks(comparison: Comparison) -> tuple[str, ...]:
    """The tasks that have a column in the tables: all, or none where there are too many."""
    return () if comparison.many else comparison.tasks


def _order(comparison: Comparison, tasks: tuple[str, ...]) -> str:
    """The tasks in their order; of many tasks the number of the order among those of the comparison."""
    return f"order {comparison.orders.index(tasks) + 1}" if comparison.many else " → ".join(tasks)


def _mark_notes(rows: Sequence[Sequence[Entry]]) -> list[str]:
    """The legend of the marks that entries have."""
    legend = {scores.MARK: scores.MARK_NOTE, data_apart.MARK: data_apart.MARK_NOTE}
    return [note for mark, note in legend.items() if any(mark in entry.mark for row in rows for entry in row)]


def _units(comparison: Comparison, words: int) -> tuple[str | None, ...]:
    """What the numbers of metrics and tasks are, behind a number of columns of words; empty where nothing is said."""
    if comparison.many and not comparison.unlike:
        return ()
    heads = () if comparison.many else comparison.heads
    return (*[None] * words, *[scores.MIXED if comparison.unlike else None] * len(METRICS), *heads)


def compare_csv(comparison: Comparison) -> bytes:
    """One line per group; for each quantity its mean, half width and number of runs, unrounded.

    The last column has what a reader has to know of these numbers, the same in every line, so that it stays with those that
    are selected or put together with other files.
    """
    columns = [*METRICS, *(f"final:{task}" for task in comparison.tasks)]
    columns += [f"drift:{probe}" for probe in comparison.probes]
    parts = ("mean", "half_width_95", "n")
    head = ["method", "runs", *(f"{name}:{part}" for name in columns for part in parts), "remarks"]
    rows: list[list[object]] = [list(head)]
    for group in comparison.groups:
        entries = [group.metrics[key] for key in METRICS] + [group.final[task] for task in comparison.tasks]
        entries += [group.drift[probe] for probe in comparison.probes]
        line: list[object] = [group.label, group.finished]
        for entry in entries:
            line += [entry.mean, entry.half_width, len(entry.values)]
        rows.append([*line, " ".join(_told(comparison))])
    return writing.csv_bytes(rows)


def _told(comparison: Comparison, pairs: paired.Paired | None = None) -> list[str]:
    """What a reader has to know of the numbers."""
    more = pairs.remarks if pairs is not None else ()
    return [*comparison.remarks, *more, *(f"Note: {note}" for note in comparison.notes)]


def compare_tex(comparison: Comparison) -> str:
    """The table of groups for LaTeX, with all remarks below it; wide tables are set small."""
    where = _where(comparison)
    scored = "final scores" if comparison.after is None else "scores"
    what = "Continual metrics" if comparison.many else f"Continual metrics and {scored}"
    caption = (
        f"{what} (0--100) on {text.tex(where)}. "
        r"Mean over runs $\pm$ half the 95\,\% $t$-interval."
    )
    table = group_table(comparison, decimals=1)
    label = text.slug(("compare", where))
    plain = Table(table.head, table.rows, note=" ".join(_mark_notes(table.rows)), units=table.units)
    source = tables.to_tex(plain, caption, label, _told(comparison))
    drift = drift_table(comparison, decimals=1)
    if drift is None:
        return source
    caption = rf"Probes on {text.tex(where)}. Mean over runs $\pm$ half the 95\,\% $t$-interval."
    return f"{source}\n{tables.to_tex(drift, caption, text.slug(('probes', where)))}"


def _entry(comparison: Comparison, group: Group, key: str, decimals: int) -> Entry:
    """``mean ± half width``; the number of runs where only some of them have the quantity."""
    summary = group.metrics[key] if key in group.metrics else group.final[key]
    mark = _apart(comparison, key) + (scores.MARK if group.is_trivial(key) else "")
    return _of_summary(summary, group.finished, decimals, mark)


def _apart(comparison: Comparison, key: str) -> str:
    """The mark of a task, a probe or a metric whose values come from different tests."""
    return data_apart.MARK if comparison.is_apart(key) else ""


def _of_summary(summary: Summary, finished: int, decimals: int, mark: str = "") -> Entry:
    """``mean ± half width``, with the number of runs if it is not that of the finished ones."""
    if summary.mean is None:
        return Entry(text.MISSING)
    half = f" ± {text.number(summary.half_width, decimals)}" if summary.half_width is not None else ""
    count = len(summary.values)
    shown = f"{text.number(summary.mean, decimals)}{half}"
    return Entry(shown, detail=f"(n = {count})" if count != finished else "", mark=mark)


def _of_difference(summary: Summary, pairs: int, decimals: int, mark: str = "") -> Entry:
    """``mean ± half width`` with the sign of the mean, and a mark where the interval does not contain 0."""
    entry = _of_summary(summary, pairs, decimals, mark + (paired.MARK if paired.without_zero(summary) else ""))
    unsigned, signed = text.number(summary.mean, decimals), text.signed(summary.mean, decimals)
    return dataclasses.replace(entry, text=signed + entry.text.removeprefix(unsigned))


def _summaries(comparison: Comparison) -> list[Summary]:
    """Every summary of the comparison."""
    return [
        entry
        for group in comparison.groups
        for entry in (*group.metrics.values(), *group.final.values(), *group.drift.values())
    ]
