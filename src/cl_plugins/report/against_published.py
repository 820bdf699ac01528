"""Compare a run, or repetitions of it, with a published entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import Problem, RecipeError, RunStateError
from ..evaluation.scorers import get_scorer
from ..published import Measure, PublishedEntry, PublishedTable, Source, check_source, find_published
from .data_apart import pooled_remark
from .groups import Group, read_comparison
from .published_lines import Line, compared_lines
from .run_data import Run, read_run
from .text import listing, number


#: From a run's directory and ``task=scorer`` words to a directory with the predictions scored again.
Rescore = Callable[[Path, list[str]], Path]


@dataclass(frozen=True)
class PublishedComparison:
    """A group of runs compared with an entry.

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
) -> tuple[PublishedComparison, ...]:
    """Compare runs with a published entry.

    Where a task of a run is scored by another rule than the source's and ``rescore`` is given, the run's kept
    predictions are scored by the source's rule first.

    Args:
        run_dirs: Directories of runs of one stream; repetitions (seeds) of one recipe form a group.
        reference: ``source/entry``, as in ``li2025/inclora``.
        names: A name per run; equal names form a group.
        rescore: How to score a run again; ``None`` refuses runs that are scored differently.

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
            compared = _compared(source, table, entry, group, before)
            if compared.lines:
                found.append(compared)
    if not found:
        what = "has no number in common with your runs."
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
            fix = "Numbers depend on the order. Compare a run in the published order."
        else:
            theirs = listing(
                dict.fromkeys(f"{t.stream or t.title} ({', '.join(t.tasks) or 'tasks unknown'})" for t in holding)
            )
            what = f"is a run of {run.stream} ({', '.join(run.tasks)}); {source.key}/{key} is about {theirs}."
            fix = "Choose an entry for the same stream: `cl-plugins list published`."
        problems.append(Problem(str(run.path), what, fix))
    if problems:
        raise RunStateError(problems, "The streams do not match:" if len(problems) > 1 else None)
    return fitting


def _fits(table: PublishedTable, run: Run) -> bool:
    return table.stream == run.stream and table.tasks == run.tasks


def _same_rules(runs: Sequence[Run], table: PublishedTable, source: Source, rescore: Rescore | None) -> list[Path]:
    """Directories of the runs in which every task is scored as the source scores it."""
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
            what = f"{task} is scored with {ours} here; {source.key} uses another rule: {measure.rule}."
            fix = (
                f"Score the answers by that rule: `cl-plugins report RUN --scorer {task}={known[0]}`, then compare "
                "RUN/rescored/...; it needs the run's predictions."
                if known
                else "No scorer of this package has that rule, so the numbers cannot be compared."
            )
            problems.append(Problem(str(run.path), what, fix))
        directories.append(rescore(run.path, words) if words and rescore is not None and not problems else run.path)
    if problems:
        raise RunStateError(problems, "The metrics do not match:" if len(problems) > 1 else None)
    return directories


def _compared(
    source: Source, table: PublishedTable, entry: PublishedEntry, group: Group, before: Run | None
) -> PublishedComparison:
    """The numbers that both sides have."""
    whole = [member for member in group.members if member.run.stream_trained] or list(group.members)
    lines = compared_lines(source, table, entry, whole)
    first = whole[0].run
    definitions = [
        (task, _own(first.scorers.get(task, "?"), table.measures[task]), table.measures[task].rule)
        for task in table.tasks
    ]
    for key in entry.printed:
        metric = source.metrics[key]
        ours = "the same formula" if metric.kind else "no metric of this package is the same, so it is left out"
        if metric.truncate:
            ours = f"computed by their rule for this line: {listing(metric.truncate)} truncated to a whole number, then the mean"
        definitions.append((f"{metric.label}, printed", ours, metric.definition))
    definitions.append(
        (
            "from the cells",
            "plain formulae (docs: Evaluation), not truncated",
            "computed by us from their printed cells",
        )
    )
    remarks = tuple(_remarks(source, table, entry, group, before))
    return PublishedComparison(
        source, table, entry, group.label, len(whole), tuple(lines), tuple(definitions), remarks
    )


def _own(scorer: str, measure: Measure) -> str:
    return f"{scorer}, its {measure.metric}" if measure.metric else scorer


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
        found.append(f"Our kept answers were scored again by the source's rules ({', '.join(pairs)}).")
    for item in check_source(source):
        if (item.table, item.entry) == (table.key, entry.key):
            place = f" after {table.tasks[item.place - 1]}" if item.place else ""
            why = "; it follows if scores are truncated to whole numbers before the mean" if item.truncation else ""
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
    runs = [member.run for member in group.members]
    if limited := [task for task in run.tasks if any(task in each.limits for each in runs)]:
        found.append(f"Our tests of {listing(limited)} were limited by cl.eval.max_items.")
    if short := [task for task in run.tasks if any(task in each.left_out for each in runs)]:
        found.append(f"Items of our tests of {listing(short)} were left out: their prompts exceed cutoff_len.")
    found += pooled_remark(group.label, runs, run.tasks)
    return [*found, *source.notes]
