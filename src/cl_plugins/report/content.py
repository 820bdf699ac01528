"""What the report of one run says, as tables and sentences; the templates only lay it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..base.secrets import masked
from ..contract.host import has_encoders
from . import scores, text
from .coarse_picture import many
from .notes import cut_notes, limit_note, validation_notes
from .run_data import METRIC_MEANINGS, Cell, Run
from .tables import Entry, Table


_BASELINES = {
    "random_baseline": "random",
    "majority_baseline": "majority",
    "constant_baseline": "constant",
    "shuffled_floor": "shuffled",
}
FILES = (
    ("report.html, report.md", "this report; the HTML page needs no other file"),
    ("matrix.png, forgetting.png", "the two pictures; as vectors for papers: matrix.pdf, forgetting.pdf"),
    ("matrix.csv", "the accuracy matrix, unrounded"),
    ("cells.csv", "one line per cell: score, 95 % interval, items, scorer"),
    ("matrix.tex", "the accuracy matrix for LaTeX (booktabs)"),
    ("matrix.json, metrics.json", "scores and metrics for programs"),
    ("predictions/", "every prompt, prediction and reference with its score, one JSON line per test item"),
    ("run.json, journal.jsonl", "the resolved recipe, versions and hashes; the finished steps"),
    (
        "tasks/, carry/, final/",
        "the outputs of each task, the input of the next task, and the model evaluated last",
    ),
)


def files(run: Run) -> tuple[tuple[str, str], ...]:
    """The files of a run and what they hold."""
    told = {}
    if has_encoders(run.info.get("recipe") or {}):
        told["predictions/"] = "every test item with its prediction, reference and score, one JSON line each"
    if many(run):
        told["matrix.tex"] = "the scores of each task for LaTeX (booktabs)"
    return tuple((name, told.get(name, what)) for name, what in FILES)


def matrix_table(run: Run, intervals: bool = True) -> Table:
    """The accuracy matrix with ``A_k`` as its last column where the run has it.

    Args:
        run: The run.
        intervals: Whether to show 95 % intervals with the scores.

    Returns:
        One row per matrix row; the score of the task just trained is strong.
    """
    means = run.seen_means() if run.joint is None and not run.independent else ()
    rows = []
    for row in run.rows:
        entries = [Entry(row.label)]
        for column, cell in enumerate(row.cells):
            entries.append(
                Entry(
                    text.number(cell.score),
                    detail=text.interval(cell.interval) if intervals else "",
                    strong=row.trained == column and cell.score is not None,
                    tint=cell.score,
                    mark=scores.mark(cell),
                )
            )
        if means:
            index = run.trained_rows.index(row) if row in run.trained_rows else None
            entries.append(Entry(text.number(means[index]) if index is not None else ""))
        rows.append(tuple(entries))
    head = ("after training on" if run.joint is None else "trained on", *run.tasks, *(["A_k"] if means else []))
    rules = frozenset({0}) if run.zero_shot is not None else frozenset()
    note = _joined(scores.mark_note(cell for row in run.rows for cell in row.cells), limit_note(run))
    units = (None, *scores.heads(run), *([scores.MIXED if scores.unlike(run) else None] if means else []))
    return Table(head, tuple(rows), rules=rules, note=note, units=units)


def _joined(*sentences: str) -> str:
    """Those sentences that say something."""
    return " ".join(sentence for sentence in sentences if sentence)


def task_table(run: Run) -> Table:
    """The tasks in order: scorer, items, score after its own training, final score, and the trivial baselines."""
    keys = [key for key in _BASELINES if any(key in cell.extra for row in run.rows for cell in row.cells)]
    rows = []
    shown: list[Cell] = []
    for index, task in enumerate(run.tasks):
        own = next((row.cells[index] for row in run.trained_rows if row.trained == index), Cell())
        final = run.final[index]
        entries = [
            Entry(task),
            Entry(run.scorers.get(task, ""), code=True),
            Entry(str(run.n.get(task, text.MISSING)), detail="(limited)" if task in run.limits else ""),
        ]
        if run.joint is None:
            detail = text.interval(own.interval)
            entries.append(Entry(text.number(own.score), detail=detail, strong=True, mark=scores.mark(own)))
            shown.append(own)
        if not run.independent:
            detail = text.interval(final.interval)
            entries.append(Entry(text.number(final.score), detail=detail, mark=scores.mark(final)))
            shown.append(final)
        # The baselines of the labels are the same in every row; a shuffled floor belongs to the predictions, so the
        # latest measured one is shown.
        last = latest(run, index)
        for key in keys:
            value = last.extra.get(key)
            answer = last.extra.get("constant_answer") if key == "constant_baseline" else None
            number = text.number(float(value) if isinstance(value, int | float) else None)
            entries.append(Entry(number, detail=f"“{text.shorten(str(answer), 40)}”" if answer else ""))
        rows.append(tuple(entries))
    head = ["task", "scorer", "items"]
    head += ["right after its training"] if run.joint is None else []
    head += ["at the end"] if not run.independent else []
    note = _joined(scores.mark_note(shown), limit_note(run))
    return Table((*head, *(_BASELINES[key] for key in keys)), tuple(rows), left=2, note=note)


def invalid_table(run: Run) -> Table | None:
    """The rate of answers that name no option, for every cell of a choice task; ``None`` without such a task."""
    columns = [
        index for index in range(len(run.tasks)) if any("invalid_rate" in row.cells[index].extra for row in run.rows)
    ]
    if not columns:
        return None
    rows = []
    for row in run.rows:
        rates = [row.cells[index].extra.get("invalid_rate") for index in columns]
        rows.append((Entry(row.label), *(Entry(text.number(rate, 1)) for rate in rates)))
    rules = frozenset({0}) if run.zero_shot is not None else frozenset()
    head = ("after training on" if run.joint is None else "trained on", *(run.tasks[index] for index in columns))
    return Table(head, tuple(rows), rules=rules, note=limit_note(run))


def numbers_table(run: Run) -> Table | None:
    """What the method itself has measured while it trained, one row per training; ``None`` if it has measured nothing."""
    found = run.info.get("numbers") or {}
    names = list(dict.fromkeys(name for numbers in found.values() for name in numbers))
    if not names:
        return None
    rows = [
        (Entry(training.replace(":", ", ")), *(Entry(_number(numbers.get(name))) for name in names))
        for training, numbers in found.items()
    ]
    return Table(("trained on", *(name.replace("_", " ") for name in names)), tuple(rows))


def selection_table(run: Run) -> Table | None:
    """Percentage of each task's items that the model gave to that task's part, by row; ``None`` where it chooses nothing."""
    return _by_row(run, "selected")


def _by_row(run: Run, key: str) -> Table | None:
    """A percentage out of ``extra``, one row per measured row and one column per task that has it."""
    columns = [i for i in range(len(run.tasks)) if any(key in row.cells[i].extra for row in run.rows)]
    if not columns:
        return None
    rows = [
        (Entry(row.label), *(Entry(text.number(row.cells[index].extra.get(key), 1)) for index in columns))
        for row in run.rows
        if any(key in row.cells[index].extra for index in columns)
    ]
    head = ("after training on" if run.joint is None else "trained on", *(run.tasks[index] for index in columns))
    return Table(head, tuple(rows), note=limit_note(run))


def _number(value: float | None) -> str:
    """Four digits; whole numbers as they are."""
    if value is None:
        return text.number(None, 1)
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def metric_table(run: Run) -> Table:
    """Every metric with its value or the reason for having none, its divisor and formula."""
    rows = []
    for metric in run.metrics.values():
        any_value = any(value is not None for value in metric.values)
        if metric.key == "a_k":
            shown = ", ".join(text.number(value) for value in metric.values) or text.MISSING
            if many(run):
                shown = "the column A_k of the first table" if any_value else text.MISSING
        else:
            shown = text.number(metric.value)
        meaning = METRIC_MEANINGS.get(metric.key, "")
        reason = _cut(metric.reason)
        rows.append(
            (
                Entry(metric.label, strong=True),
                Entry(shown),
                Entry(f"{'Not all defined' if any_value else 'Not defined'}: {reason}" if reason else meaning),
                Entry(metric.divisor, code=True),
                Entry(metric.formula, code=True),
            )
        )
    head = ("metric", "value", "meaning, or why there is no value", "divisor", "formula")
    note = _joined(scores.unlike_note(run), limit_note(run))
    return Table(head, tuple(rows), left=5, note=note, wrap=frozenset({2, 4}))


def headline(run: Run) -> list[tuple[str, str, str]]:
    """The few metrics everybody looks for: label, value, meaning; those that are not defined are left out."""
    found = []
    for key in ("last", "average", "mft", "bwt", "forgetting"):
        metric = run.metrics.get(key)
        if metric is not None and metric.value is not None:
            found.append((metric.label, text.number(metric.value), METRIC_MEANINGS[key]))
    return found


def remarks(run: Run) -> list[str]:
    """What a reader has to know before reading the numbers."""
    found = []
    if run.unfinished:
        found.append(f"This run is not complete: {run.unfinished}.")
    if not run.metrics:
        found.append("metrics.json has not been written yet, so there are no continual metrics.")
    found += [note for note in (scores.unlike_note(run), limit_note(run)) if note]
    found += cut_notes(run)
    found += validation_notes(run)
    if run.independent:
        found.append("Each row is its own model, trained from the base on that task alone; nothing is forgotten.")
    return [*found, *run.remarks]


def baselines(run: Run) -> str:
    """What the columns of baselines mean, for those that the run has."""
    found = {key for row in run.rows for cell in row.cells for key in cell.extra if key in _BASELINES}
    if not found:
        return "The scorers and the numbers of test items."
    parts = ["What the scores have to be read against."]
    if "random_baseline" in found:
        parts.append("Random: guessing among the options.")
    single = [_BASELINES[key] for key in ("majority_baseline", "constant_baseline") if key in found]
    if single:
        words = text.listing(single).capitalize()
        parts.append(f"{words}: the best single answer for every item, taken from the test references.")
    if "shuffled_floor" in found:
        parts.append("Shuffled: the same predictions against references of other items.")
    return " ".join(parts)


def facts(run: Run) -> list[tuple[str, str]]:
    """How the run was made: stream, method with its options, seed, time and memory; credentials are masked."""
    info = run.info
    found = [
        ("stream", f"{run.stream}: {', '.join(run.tasks)}"),
        ("method", run.method),
        ("seed", str(run.seed) if run.seed is not None else "not recorded"),
    ]
    found += [(f"method: {name}", str(value)) for name, value in _flat(masked(info.get("method_options")))]
    if isinstance(info.get("seconds"), int | float):
        found.append(("time", text.duration(info["seconds"])))
    if isinstance(info.get("peak_memory_bytes"), int | float):
        found.append(("peak memory", text.size(info["peak_memory_bytes"])))
    return found


def environment(run: Run) -> list[tuple[str, str]]:
    """With what the run was made: hardware, versions, base, sizes of folders, hashes of the data."""
    found = []
    for key in ("hardware", "versions", "base", "sizes", "merge_error", "data"):
        for name, value in _flat(masked(run.info.get(key))):
            if key == "sizes" and isinstance(value, int):
                value = text.size(value)
            word = key.replace("_", " ")
            found.append((f"{word}: {name}" if name else word, str(value)))
    return found


def recipe_yaml(run: Run) -> str:
    """The resolved recipe as YAML with every key that may hold a secret masked; empty where none was recorded."""
    import yaml

    recipe = run.info.get("recipe")
    if not isinstance(recipe, Mapping) or not recipe:
        return ""
    return yaml.safe_dump(_plain(masked(recipe)), sort_keys=False, allow_unicode=True, width=100).rstrip()


def citation(run: Run) -> tuple[str, str]:
    """A sentence for the paper's set-up section, and a BibTeX entry for the software that made the numbers."""
    version = str((run.info.get("versions") or {}).get("cl-plugins") or "")
    scorers = text.listing(dict.fromkeys(run.scorers[task] for task in run.tasks if task in run.scorers))
    parts = [
        f"{run.method} on the stream {run.stream} ({len(run.tasks)} task{'s' if len(run.tasks) > 1 else ''}, "
        f"in the order {', '.join(run.tasks)})",
        f"seed {run.seed}" if run.seed is not None else "",
        f"scored with {scorers} on {', '.join(f'{run.n[t]} ({t})' for t in run.tasks if t in run.n)} items",
        f"cl_plugins {version}" if version else "cl_plugins",
    ]
    sentence = "; ".join(part for part in parts if part) + "."
    lines = ["@software{cl_plugins,", "  title = {cl\\_plugins: continual learning for LLaMA-Factory},"]
    lines += ["  author = {{the cl\\_plugins developers}},"]
    lines += [f"  version = {{{text.tex(version)}}},"] if version else []
    return sentence, "\n".join([*lines, "}"])


def _cut(reason: str, limit: int = 160) -> str:
    """A long list of missing cells, cut at its end; ``metrics.json`` has it in full."""
    return reason if len(reason) <= limit else f"{reason[:limit].rsplit(', ', 1)[0]}, {text.ELLIPSIS}"


def latest(run: Run, task: int) -> Cell:
    """The latest measured cell of a task that has a remark in addition to its score."""
    cells = [row.cells[task] for row in run.rows if row.cells[task].extra]
    return cells[-1] if cells else Cell()


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings and lists as dotted names and plain values."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list) and any(isinstance(item, Mapping | list) for item in content):
        for index, item in enumerate(content):
            yield from _flat(item, f"{prefix}.{index}" if prefix else str(index))
    elif isinstance(content, list):
        yield prefix, ", ".join(str(item) for item in content) or "none"
    elif content is not None:
        yield prefix, content


def _plain(content: Any) -> Any:
    """The recipe in types that YAML has."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(item) for item in content]
    return content if isinstance(content, str | int | float | bool | type(None)) else str(content)
