"""A run, or repetitions of it, beside a published entry: ours, theirs, the difference, inside our interval or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from .comparing import Group, Member, read_comparison, summarise
from .published import Measure, PublishedEntry, PublishedTable, Source, find_published
from .published_check import Cells, cells_of, check_source, derive
from .run_data import Cell, Run, read_run
from .text import listing, number


#: From a run's directory and ``task=scorer`` words to a directory with the predictions scored anew.
Rescore = Callable[[Path, list[str]], Path]


@dataclass(frozen=True)
class Line:
    """One number of both sides.

    Attributes:
        place: What it is.
        ours: Our score, or the mean over our runs.
        interval: Our 95 % interval: over the test items for one run, over the runs for several.
        theirs: What is printed, or follows from what is printed.
        printed: Whether it is printed.
    """

    place: str
    ours: float | None
    interval: tuple[float, float] | None
    theirs: float
    printed: bool = True

    @property
    def difference(self) -> float | None:
        """Ours minus theirs."""
        return None if self.ours is None else self.ours - self.theirs

    @property
    def inside(self) -> bool | None:
        """Whether theirs lies inside our interval; ``None`` without one."""
        return None if self.interval is None else self.interval[0] <= self.theirs <= self.interval[1]


@dataclass(frozen=True)
class Beside:
    """A group of runs beside an entry.

    Attributes:
        source: The source.
        table: The table of the entry.
        entry: The entry.
        label: Name of our group.
        runs: How many runs it has.
        lines: The numbers.
        definitions: What each side measures: name, ours, theirs.
        remarks: What keeps the difference from saying what it seems to say.
    """

    source: Source
    table: PublishedTable
    entry: PublishedEntry
    label: str
    runs: int
    lines: tuple[Line, ...]
    definitions: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]


def compare_with_published(
    run_dirs: Sequence[Path],
    reference: str,
    names: Sequence[str] | None = None,
    rescore: Rescore | None = None,
) -> tuple[Beside, ...]:
    """Put runs beside a published entry.

    Where a task of a run is scored by another rule than the source's and ``rescore`` is given, the run's kept
    predictions are scored by the source's rule first.

    Args:
        run_dirs: Directories of runs of one stream; repetitions (seeds) of one recipe form a group.
        reference: ``source/entry``, as in ``li2025/inclora``.
        names: A name per run; equal names form a group.
        rescore: How to score a run anew; ``None`` refuses runs that are scored differently.

    Returns:
        One for each group and each table of the source that holds the entry and has the runs' stream.

    Raises:
        RecipeError: There is no such entry.
        RunStateError: A run cannot be read, or streams or metrics do not match; lists every problem.
        DataError: The published results are damaged.
    """
    source, key = find_published(reference)
    runs = [read_run(Path(directory)) for directory in run_dirs]
    tables = _tables(source, key, runs)
    found = []
    for table in tables:
        directories = _same_rules(runs, table, source, rescore)
        comparison = read_comparison(directories, names)
        entry = next(entry for entry in table.entries if entry.key == key)
        before = runs[0] if directories != [run.path for run in runs] else None
        for group in comparison.groups:
            beside = _beside(source, table, entry, group, before)
            if beside.lines:
                found.append(beside)
    if not found:
        what = "has no number that your runs have too."
        raise RunStateError(Problem(f"--with {reference}", what, "Compare with another entry, or finish the runs."))
    return tuple(found)


def _tables(source: Source, key: str, runs: Sequence[Run]) -> list[PublishedTable]:
    """The tables with the entry that have the stream of all runs."""
    holding = [table for table, entry in source.entries() if entry.key == key]
    problems = []
    fitting = [table for table in holding if all(_fits(table, run) for run in runs)]
    for run in runs if not fitting else ():
        same = next((t for t in holding if t.stream == run.stream and set(t.tasks) == set(run.tasks)), None)
        if same is not None:
            what = f"learned {', '.join(run.tasks)}; {source.key} learned {', '.join(same.tasks)}."
            fix = "Every order gives other numbers. Compare a run in the published order."
        else:
            theirs = listing(
                dict.fromkeys(f"{t.stream or t.title} ({', '.join(t.tasks) or 'tasks unknown'})" for t in holding)
            )
            what = f"is a run of {run.stream} ({', '.join(run.tasks)}); {source.key}/{key} is about {theirs}."
            fix = "Choose an entry on the same stream: `cl-plugins list published`."
        problems.append(Problem(str(run.path), what, fix))
    if problems:
        raise RunStateError(problems, "The streams do not match:" if len(problems) > 1 else None)
    return fitting


def _fits(table: PublishedTable, run: Run) -> bool:
    return table.stream == run.stream and table.tasks == run.tasks


def _same_rules(runs: Sequence[Run], table: PublishedTable, source: Source, rescore: Rescore | None) -> list[Path]:
    """Directories of the runs in which every task is scored as the source scores it."""
    from ..base.errors import RecipeError
    from ..evaluation.scorers import get_scorer

    problems: list[Problem] = []
    directories = []
    for run in runs:
        words = []
        for task in run.tasks:
            measure, ours = table.measures[task], run.scorers.get(task, "?")
            if measure.covers(ours):
                continue
            known = []
            for name in measure.scorers:
                try:
                    known.append(get_scorer(name).name)
                except RecipeError:
                    continue
            has = any((run.path / "predictions" / row.name / f"{task}.jsonl").is_file() for row in run.rows)
            if known and rescore is not None and has:
                words.append(f"{task}={known[0]}")
                continue
            what = f"{task} is scored with {ours} here; {source.key} scores it otherwise: {measure.rule}."
            fix = (
                f"Score the answers by that rule: `cl-plugins report RUN --scorer {task}={known[0]}`, then compare "
                "RUN/rescored/...; it needs the run's predictions."
                if known
                else "No scorer of this package has that rule, so the numbers cannot stand side by side."
            )
            problems.append(Problem(str(run.path), what, fix))
        directories.append(rescore(run.path, words) if words and rescore is not None and not problems else run.path)
    if problems:
        raise RunStateError(problems, "The metrics do not match:" if len(problems) > 1 else None)
    return directories


def _beside(source: Source, table: PublishedTable, entry: PublishedEntry, group: Group, before: Run | None) -> Beside:
    """The numbers that both sides have."""
    whole = [member for member in group.members if member.run.stream_trained] or list(group.members)
    lines = [*_cells(table, entry, whole), *_printed(source, table, entry, whole), *_derived(table, entry, whole)]
    first = whole[0].run
    definitions = [
        (task, _own(first.scorers.get(task, "?"), table.measures[task]), table.measures[task].rule)
        for task in table.tasks
    ]
    for key in entry.printed:
        metric = source.metrics[key]
        ours = "the same formula" if metric.kind else "no metric of ours is the same, so it is left out"
        if metric.truncate:
            ours = f"computed by their rule for this line: {listing(metric.truncate)} cut to a whole number, then the mean"
        definitions.append((f"{metric.label}, printed", ours, metric.definition))
    definitions.append(
        ("from the cells", "plain formulae (docs: Evaluation), nothing cut", "computed by us from their printed cells")
    )
    remarks = tuple(_remarks(source, table, entry, group, before))
    return Beside(source, table, entry, group.label, len(whole), tuple(lines), tuple(definitions), remarks)


def _own(scorer: str, measure: Measure) -> str:
    return f"{scorer}, its {measure.metric}" if measure.metric else scorer


def _value(cell: Cell, measure: Measure) -> tuple[float | None, tuple[float, float] | None]:
    """A cell's score (or the metric that the source prints) with its interval."""
    if measure.metric is None:
        return cell.score, cell.interval
    value = (cell.extra.get("metrics") or {}).get(measure.metric)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None, None
    return float(value), cell.interval if value == cell.score else None


def _pooled(
    values: Sequence[float | None], interval: tuple[float, float] | None = None
) -> tuple[float | None, tuple[float, float] | None]:
    """One run's value with its interval, or mean and t-interval over several.

    Runs that agree to the last digit (zero-shot scores do not depend on the seed) keep the interval of one of them.
    """
    if len(set(values)) == 1:
        return values[0], interval
    summary = summarise(values)
    if summary.mean is None or summary.half_width is None:
        return summary.mean, None
    return summary.mean, (summary.mean - summary.half_width, summary.mean + summary.half_width)


def _cells(table: PublishedTable, entry: PublishedEntry, members: Sequence[Member]) -> list[Line]:
    """Zero-shot scores, then the matrix, or what there is of it."""
    count = len(table.tasks)
    wanted: list[tuple[str, str, int, float | None]] = []
    if entry.zero_shot:
        wanted += [("zero-shot", "zero_shot", j, value) for j, value in enumerate(entry.zero_shot)]
    if entry.matrix:
        for k, scores in enumerate(entry.matrix):
            wanted += [(f"after {table.tasks[k]}", f"after_{table.tasks[k]}", j, v) for j, v in enumerate(scores)]
    elif entry.final:
        wanted += [("final", "final", j, value) for j, value in enumerate(entry.final)]
    elif entry.diagonal:
        wanted += [("own", "own", j, value) for j, value in enumerate(entry.diagonal)]
    lines = []
    for label, row, j, theirs in wanted if count else ():
        if theirs is None:
            continue
        measure = table.measures[table.tasks[j]]
        own = [_value(cell, measure) if (cell := _cell(m.run, row, j)) else (None, None) for m in members]
        ours, interval = _pooled([value for value, _ in own], own[0][1])
        if ours is not None:
            words = {"own": f"{table.tasks[j]}, right after it", "final": f"{table.tasks[j]}, at the end"}
            lines.append(Line(words.get(label, f"{table.tasks[j]}, {label}"), ours, interval, theirs))
    return lines


def _cell(run: Run, row: str, column: int) -> Cell | None:
    """A cell of a run by the name of its row, or of ``final`` or ``own``."""
    if row == "final":
        return run.final[column]
    if row == "own":
        row = f"after_{run.tasks[column]}"
    return next((found.cells[column] for found in run.rows if found.name == row), None)


def _own_cells(run: Run, table: PublishedTable) -> Cells:
    """A run's scores in the form that metrics are derived from."""

    def scores(cells: Sequence[Cell]) -> list[float | None]:
        return [_value(cell, table.measures[t])[0] for t, cell in zip(run.tasks, cells, strict=True)]

    rows = {row.trained: scores(row.cells) for row in run.trained_rows if row.trained is not None}
    empty: list[float | None] = [None] * len(run.tasks)
    sequence = [] if run.independent or run.joint else [rows.get(k, empty) for k in range(len(run.tasks))]
    return Cells(
        run.tasks,
        scores(run.zero_shot.cells) if run.zero_shot else (),
        sequence,
        scores(run.final),
        [rows[k][k] if k in rows else None for k in range(len(run.tasks))],
    )


def _printed(source: Source, table: PublishedTable, entry: PublishedEntry, members: Sequence[Member]) -> list[Line]:
    """The metrics that the source prints, ours by the source's own definition."""
    lines = []
    for key, value in entry.printed.items():
        metric = source.metrics[key]
        printed = value if isinstance(value, tuple) else (value,)
        own = [derive(metric.kind, _own_cells(m.run, table).truncated(metric.truncate)) for m in members]
        for index, theirs in enumerate(printed):
            ours, interval = _pooled([row[index] if index < len(row) else None for row in own])
            if ours is not None:
                where = f" after {table.tasks[index]}" if isinstance(value, tuple) else ""
                lines.append(Line(f"{metric.label}{where}, printed", ours, interval, theirs))
    return lines


def _derived(table: PublishedTable, entry: PublishedEntry, members: Sequence[Member]) -> list[Line]:
    """Our metrics, also computed from their cells; nothing is cut."""
    lines = []
    labels = (("last", "Last"), ("average", "MAA"), ("mft", "MFT"), ("bwt", "BWT (T−1)"))
    for kind, label in labels:
        (theirs,) = derive(kind, cells_of(table, entry))
        ours, interval = _pooled([derive(kind, _own_cells(m.run, table))[0] for m in members])
        if theirs is not None and ours is not None:
            lines.append(Line(f"{label}, from the cells", ours, interval, theirs, printed=False))
    return lines


def _remarks(
    source: Source, table: PublishedTable, entry: PublishedEntry, group: Group, before: Run | None
) -> list[str]:
    """What a reader has to know of both sides."""
    run = group.members[0].run
    found = []
    if before is not None:
        pairs = [
            f"{t}: {before.scorers.get(t)} -> {run.scorers.get(t)}"
            for t in run.tasks
            if before.scorers.get(t) != run.scorers.get(t)
        ]
        found.append(f"Our kept answers were scored anew by the source's rules ({', '.join(pairs)}).")
    for item in check_source(source):
        if (item.table, item.entry) == (table.key, entry.key):
            place = f" after {table.tasks[item.place - 1]}" if item.place else ""
            why = "; scores cut to whole numbers before the mean explain it" if item.truncation else ""
            label = source.metrics[item.metric].label
            found.append(
                f"Printed {label}{place} is {number(item.printed)}, its cells give {number(item.computed)}{why}."
            )
    base = str((run.info.get("recipe") or {}).get("model_name_or_path") or "not recorded")
    found.append(f"Base: ours {base}; theirs {table.base or 'not known'}.")
    tags = {entry.provenance, *entry.provenance_of.values()}
    if "unverified" in tags:
        found.append(f"UNVERIFIED: {source.provenance['unverified']}.")
    if entry.quoted:
        found.append(f"The source has this row from {entry.quoted}.")
    found.append(f"Theirs: {source.seeds or 'number of runs not known'}. Read in: {source.read_in}.")
    if run.limits:
        found.append(f"Our tests of {listing(run.limits)} were limited by cl.eval.max_items.")
    return [*found, *source.notes]


def as_json(beside: Sequence[Beside]) -> dict[str, Any]:
    """The comparison as plain JSON types, unrounded."""
    return {
        "format": 1,
        "comparisons": [
            {
                "with": f"{b.source.key}/{b.entry.key}",
                "source": {"title": b.source.title, "reference": b.source.reference, "read_in": b.source.read_in},
                "table": b.table.title,
                "stream": b.table.stream,
                "label": b.label,
                "runs": b.runs,
                "lines": [
                    {
                        "place": line.place,
                        "ours": line.ours,
                        "interval": list(line.interval) if line.interval else None,
                        "theirs": line.theirs,
                        "printed": line.printed,
                        "difference": line.difference,
                        "inside": line.inside,
                    }
                    for line in b.lines
                ],
                "definitions": [
                    {"name": name, "ours": ours, "theirs": theirs} for name, ours, theirs in b.definitions
                ],
                "remarks": list(b.remarks),
            }
            for b in beside
        ],
    }
