"""Tables 1, 2 and 3 of the Medical-CL paper in their own layout, and pictures, made from the ledger.

::

    python -m benchmarks.medical_cl.tables --scale tiny

Table 1: one row per method, the final score of every task (Last) and the mean over the tasks seen so far after every task
(Average). Tables 2 and 3: the scores after every task for IncLoRA and SeqFull; every other recipe gets such a table too.
Everything is written twice: by the paper's own rules, and by the strict scorers of this package.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.medical_cl import pages, pictures
from cl_plugins.base.errors import ClPluginsError, DataError, Problem
from cl_plugins.published import Cells, PublishedEntry, PublishedTable, Source, derive, read_published
from cl_plugins.report import compare
from cl_plugins.report.groups import Summary, summarise
from cl_plugins.report.run_data import Run, read_run
from cl_plugins.report.tables import Entry as Text
from cl_plugins.report.tables import Table
from cl_plugins.report.text import MISSING, number
from cl_plugins.sweep.ledger import Entry, as_runs, read_ledger


LEDGER = Path("benchmarks/medical_cl/ledgers")
RESULTS = Path("benchmarks/medical_cl/results")
SOURCE = "li2025"
#: Recipe to the number of its table in the paper.
PAPER_TABLES = {"inclora": 2, "seqfull": 3}
TITLES = {"path": "Path", "sur": "Sur", "cell": "Cell", "rad": "Rad"}
TITLES |= {"rs": "RS", "med": "Med", "ad": "AD", "sci": "Sci", "fin": "Fin"}


@dataclass(frozen=True)
class Row:
    """Repetitions of one recipe in the order of the paper.

    Attributes:
        label: Name of the recipe; with its hash where the ledger holds several versions of it.
        recipe: Name of the recipe.
        runs: The runs.
    """

    label: str
    recipe: str
    runs: tuple[Run, ...]


def labels(entries: Sequence[Entry]) -> list[str]:
    """A name for each entry: the recipe, and its hash where there are several versions of it."""
    versions: dict[str, set[str]] = {}
    for entry in entries:
        versions.setdefault(entry.recipe, set()).add(entry.sha256)
    return [e.recipe if len(versions[e.recipe]) == 1 else f"{e.recipe} ({e.sha256[:8]})" for e in entries]


def table_1(rows: Sequence[Row], tasks: Sequence[str], printed: PublishedTable | None) -> Table:
    """One row per recipe: Last, then Average, each per task; below them what the paper prints for the stream."""
    body = []
    zero = [run.zero_shot.cells for row in rows for run in row.runs if run.zero_shot is not None]
    if zero:
        body.append(
            _texts("Zero-shot", [*_columns([[c.score for c in cells] for cells in zero]), *[None] * len(tasks)])
        )
    for row in rows:
        last = _columns([[cell.score for cell in run.final] for run in row.runs])
        average = _columns([_seen(run) for run in row.runs])
        body.append(_texts(row.label, [*last, *average]))
    rules = {0} if zero else set()
    if printed is not None:
        rules.add(len(body) - 1)
        body += [_printed_row(entry, len(tasks)) for entry in printed.entries]
    head = ("Method", *(f"Last {_title(t)}" for t in tasks), *(f"Average {_title(t)}" for t in tasks))
    return Table(head, tuple(body), rules=frozenset(rules))


def stage_table(row: Row, tasks: Sequence[str], cut: Sequence[str], printed: PublishedEntry | None) -> Table:
    """The scores after every task and their mean, as in Tables 2 and 3.

    Args:
        row: The recipe.
        tasks: The tasks.
        cut: Tasks whose scores the paper cuts to whole numbers before it averages; empty for plain means only.
        printed: What the paper prints, for the rows below.
    """
    body = []
    names = ["zero_shot", *(f"after_{task}" for task in tasks)]
    joint = row.runs[0].joint is not None
    shown = ["zero_shot", "joint"] if joint else names
    heads = ["Zero-shot", "all tasks" if joint else _title(tasks[0]), *map(_title, tasks[1:])]
    for index, (name, label) in enumerate(zip(shown, heads, strict=False)):
        scores = [[c.score for c in r.cells] for run in row.runs for r in run.rows if r.name == name]
        if scores:
            seen = len(tasks) if name in ("zero_shot", "joint") else index
            means = [[_mean(s[:seen], tasks, ()), *([_mean(s[:seen], tasks, cut)] if cut else [])] for s in scores]
            body.append(_texts(label, [*_columns(scores), *_columns(means)]))
    rules = set()
    if printed is not None and printed.matrix:
        rules.add(len(body) - 1)
        averages = [*_tuple(printed.printed["zero_shot_mean"]), *_tuple(printed.printed["row_mean"])]
        stages = [printed.zero_shot, *printed.matrix]
        for label, theirs, average in zip(["Zero-shot", *map(_title, tasks)], stages, averages, strict=True):
            values = [*theirs, *[None] * (len(tasks) - len(theirs)), _mean(theirs, tasks, ())]
            texts = [number(value) for value in (*values, *([average] if cut else []))]
            body.append(tuple(Text(text) for text in (f"paper: {label}", *texts)))
    head = ("after", *map(_title, tasks), "avg", *(["avg, as printed"] if cut else []))
    return Table(head, tuple(body), rules=frozenset(rules))


def write_tables(entries: Sequence[Entry], out: Path, scale: str) -> list[Path]:
    """Write all tables, pictures and the page.

    Args:
        entries: The ledger.
        out: Where they go: ``paper_rules/``, ``own_rules/`` and ``README.md``.
        scale: ``full`` also prints the paper's numbers below ours.

    Returns:
        The files.

    Raises:
        DataError: The entries are of several streams.
    """
    streams = {entry.content["own"]["matrix"]["stream"] for entry in entries}
    if len(streams) > 1:
        fix = "Keep a ledger for each stream: `--ledger`."
        raise DataError(Problem("ledger", f"holds runs of several streams: {', '.join(sorted(streams))}.", fix))
    written: list[Path] = []
    source = next(source for source in read_published() if source.key == SOURCE)
    sections = []
    for rules in ("peer", "own"):
        usable = [entry for entry in entries if entry.scores(rules) is not None]
        if not usable:
            continue
        folder = out / ("paper_rules" if rules == "peer" else "own_rules")
        with as_runs(usable, rules) as directories:
            runs = [read_run(directory) for directory in directories]
            written += compare(directories, folder, names=labels(usable))
        made = _tables(usable, runs, source if rules == "peer" else None, scale)
        if made:
            written += pages.write_tables(made, folder)
            rows = _rows(usable, runs)
            written += pictures.write(rows, folder, _title)
            sections.append((folder.name, made))
    written.append(pages.write_readme(entries, labels(entries), sections, out, scale))
    return written


def _tables(
    entries: Sequence[Entry], runs: Sequence[Run], source: Source | None, scale: str
) -> dict[str, pages.Titled]:
    """Name of a file to its table."""
    rows = _rows(entries, runs)
    if not rows:
        return {}
    tasks = rows[0].runs[0].tasks
    theirs = (
        next((t for t in source.tables if t.stream == rows[0].runs[0].stream and t.tasks == tasks), None)
        if source
        else None
    )
    cut = (
        next(
            (m.truncate for m in source.metrics.values() if theirs and m.truncate and set(m.truncate) <= set(tasks)),
            (),
        )
        if source
        else ()
    )
    compared = theirs if scale == "full" else None
    stream = rows[0].runs[0].stream
    first = compared if compared is not None and any("a_k" in e.printed for e in compared.entries) else None
    made = {"table1": pages.Titled(f"Table 1: every method on {stream}", table_1(rows, tasks, first))}
    for row in sorted(rows, key=lambda row: (PAPER_TABLES.get(row.recipe, 9), row.label)):
        place = PAPER_TABLES.get(row.recipe) if row.label == row.recipe else None
        entry = next((e for e in compared.entries if e.key == row.recipe), None) if compared else None
        name = f"table{place}" if place else f"stages_{row.label.replace(' (', '_').rstrip(')')}"
        title = f"Table {place}: {row.label} on {stream}" if place else f"{row.label} on {stream}"
        made[name] = pages.Titled(title, stage_table(row, tasks, cut, entry))
    return made


def _rows(entries: Sequence[Entry], runs: Sequence[Run]) -> list[Row]:
    """Recipes with their runs in the paper's order; the paper's own two first."""
    found: dict[str, list[tuple[Entry, Run]]] = {}
    for entry, run, label in zip(entries, runs, labels(entries), strict=True):
        if entry.content["cell"]["order_name"] == "paper":
            found.setdefault(label, []).append((entry, run))
    rows = [Row(label, pairs[0][0].recipe, tuple(run for _, run in pairs)) for label, pairs in found.items()]
    return sorted(rows, key=lambda row: (PAPER_TABLES.get(row.recipe, 9), row.label))


def _seen(run: Run) -> list[float | None]:
    """A_k after every task; nothing for models that see no stream."""
    if run.joint is not None or run.independent:
        return [None] * len(run.tasks)
    rows = {row.trained: [cell.score for cell in row.cells] for row in run.trained_rows}
    empty: list[float | None] = [None] * len(run.tasks)
    return list(derive("a_k", Cells(run.tasks, matrix=[rows.get(k, empty) for k in range(len(run.tasks))])))


def _columns(scores: Sequence[Sequence[float | None]]) -> list[Summary]:
    """Mean and interval over repetitions, column by column."""
    return [summarise(column) for column in zip(*scores, strict=True)]


def _mean(scores: Sequence[float | None], tasks: Sequence[str], cut: Sequence[str]) -> float | None:
    """The mean of a row, some scores cut to whole numbers first."""
    return derive("last", Cells(tuple(tasks)[: len(scores)], final=scores).truncated(cut))[0]


def _texts(label: str, summaries: Sequence[Summary | None]) -> tuple[Text, ...]:
    """A row: means, with half the 95 % interval where there are repetitions that differ."""
    cells = [Text(label)]
    for summary in summaries:
        shown = MISSING if summary is None else number(summary.mean)
        if summary is not None and summary.half_width:
            shown += f" ± {number(summary.half_width)}"
        cells.append(Text(shown))
    return tuple(cells)


def _printed_row(entry: PublishedEntry, count: int) -> tuple[Text, ...]:
    """A row of the paper's Table 1."""
    last = entry.final or entry.zero_shot
    average = _tuple(entry.printed.get("a_k", ())) or (None,) * count
    replay = ", replay" if entry.replay else ""
    return tuple(Text(text) for text in (f"paper: {entry.label}{replay}", *map(number, last), *map(number, average)))


def _tuple(value: float | tuple[float, ...]) -> tuple[float | None, ...]:
    return value if isinstance(value, tuple) else (value,)


def _title(task: str) -> str:
    return TITLES.get(task, task)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a ledger that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.medical_cl.tables", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="folder of the ledger (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        files = write_tables(read_ledger(options.ledger / options.scale), options.out / options.scale, options.scale)
    except ClPluginsError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(files)} files; begin with {files[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
