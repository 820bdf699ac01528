"""The report of one run: pages, pictures and tables, and the table for the end of a run in the terminal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..base.printable import printable
from . import choices, coarse_picture, content, long_stream, probes, scores, tables, text, writing
from .run_data import Run, read_run


def write_report(run_dir: Path | Run, write: writing.Write | None = None, original: Path | None = None) -> list[Path]:
    """Write the report of a run into its directory.

    Reads ``matrix.json``, ``metrics.json`` and, where they exist, ``run.json`` and
    ``predictions/<row>/<task>.score.json``. The same input gives the same bytes.

    Args:
        run_dir: The ``output_dir`` of a run, which may be unfinished; or what `read_run` gave for it.
        write: Called with path and bytes for each file; by default each file is replaced in one step.
        original: Another directory with the same answers scored otherwise; its matrix is shown with this one.

    Returns:
        The files: ``matrix``, ``forgetting`` and, where the model chooses, ``confusion``, each as ``.png`` and ``.pdf``;
        ``matrix.csv``, ``cells.csv``, ``matrix.tex``, ``report.md`` and ``report.html``; with probes ``probes.csv`` and
        ``probes.tex``.

    Raises:
        RunStateError: The run directory holds no matrix, or a damaged file; lists every problem.
    """
    from .confusion_picture import confusion_picture
    from .matrix_picture import matrix_picture
    from .stream_picture import stream_picture

    run = run_dir if isinstance(run_dir, Run) else read_run(Path(run_dir))
    pictures = {"matrix": matrix_picture(run), "forgetting": stream_picture(run)}
    chosen = choices.confusion(run)
    more: list[tuple[str, str]] = []
    if chosen is not None:
        pictures["confusion"] = confusion_picture(run, chosen)
        more.append(("confusion.png, confusion.pdf", "which task's part answered the items of each task"))
    if run.probes:
        more.append(("probes.csv, probes.tex", "the probes: scores, differences and intervals"))
    sentence, bibtex = content.citation(run)
    listed = content.files(run)
    many, matrix = coarse_picture.many(run), long_stream.matrix_table(run)
    gaps = any(cell.score is None for row in run.rows for cell in row.cells)
    page = {
        "run": run,
        "many": many,
        "title": f"{run.method} on {run.stream}",
        "remarks": content.remarks(run),
        "headline": content.headline(run),
        "matrix": matrix,
        "original": _original(original),
        "tasks": content.task_table(run),
        "invalid": long_stream.invalid_table(run),
        "numbers": content.numbers_table(run),
        "selection": long_stream.selection_table(run),
        "confusion": long_stream.confusion_table(run),
        "metrics": content.metric_table(run) if run.metrics else None,
        "baselines": content.baselines(run),
        "gaps": gaps,
        "missing": any(entry.text == text.MISSING for row in matrix.rows for entry in row) if many else gaps,
        "facts": content.facts(run),
        "environment": content.environment(run),
        "recipe": content.recipe_yaml(run),
        "oracle": long_stream.oracle_table(run),
        "probes": probes.probe_table(run),
        "files": (*listed[:2], *more, *listed[2:]),
        "sentence": sentence,
        "bibtex": bibtex,
        "intervals": interval_methods(run),
        "bars": run.joint is not None or run.independent,
        "pictures": {name: writing.embedded(picture) for name, picture in pictures.items()},
    }
    files = {
        **writing.pictures(pictures),
        "matrix.csv": matrix_csv(run),
        "cells.csv": cells_csv(run),
        "matrix.tex": matrix_tex(run).encode("utf-8"),
        **probe_files(run),
        "report.md": writing.render("report.md.j2", page),
        "report.html": writing.render("report.html.j2", page),
    }
    return writing.write_all(run.path, files, write)


def terminal_table(
    run_dir: Path | Run,
    width: int | None = None,
    colour: bool = False,
    ascii: bool = False,
    original: Path | None = None,
) -> str:
    """The accuracy matrix and the metrics for the end of a run; of a stream of many tasks the scores that `long_stream` shows.

    Args:
        run_dir: The ``output_dir`` of a run, or what `read_run` gave for it.
        width: Columns of the terminal; by default those of the current terminal, else 80.
        colour: Whether to use ANSI bold and dim.
        ascii: Whether to keep to ASCII, for streams that cannot encode UTF-8.
        original: Another directory with the same answers scored otherwise; its matrix is shown below this one.

    Returns:
        Several lines, without a final newline.

    Raises:
        RunStateError: The run directory holds no matrix, or a damaged file.
    """
    run = run_dir if isinstance(run_dir, Run) else read_run(Path(run_dir))
    width = width or shutil.get_terminal_size().columns
    seed = f", seed {run.seed}" if run.seed is not None else ""
    table = long_stream.matrix_table(run, intervals=False)
    lines = [printable(f"{run.method} on {run.stream}{seed}: score on each task, 0-100"), ""]
    lines += [tables.to_terminal(table, width, colour, ascii), ""]
    metrics = [f"{label} {value}" for label, value, _ in content.headline(run)]
    lines += _wrapped(metrics, width)
    if metrics and scores.unlike(run):
        lines.append(printable(text.wrap(scores.unlike_note(run), width)))
    if run.unfinished:
        lines.append(printable(f"Not complete: {run.unfinished}."))
    drift = probes.probe_table(run)
    if drift is not None:
        lines += ["", "Probes: scores outside of the stream, and differences to zero-shot", ""]
        lines += [tables.to_terminal(drift, width, colour, ascii), ""]
    other = _original(original)
    if other is not None:
        lines += ["", printable(f"The same answers by {other['scorers']}:"), ""]
        lines += [tables.to_terminal(other["plain"], width, colour, ascii), ""]
    lines += [printable(text.wrap(f"Note: {note}", width)) for note in run.notes]
    return "\n".join(text.plain_ascii(line) if ascii else line for line in lines).rstrip("\n")


def _original(run_dir: Path | None) -> dict[str, Any] | None:
    """The matrix of the other directory, with and without intervals, and its scorers as text; None without one."""
    if run_dir is None:
        return None
    run = read_run(Path(run_dir))
    return {
        "matrix": long_stream.matrix_table(run),
        "plain": long_stream.matrix_table(run, intervals=False),
        "scorers": text.listing(f"{run.scorers[task]} ({task})" for task in run.tasks if task in run.scorers),
    }


def matrix_csv(run: Run) -> bytes:
    """The matrix: one row per matrix row, one column per task, unrounded, empty where nothing was measured."""
    rows: list[list[object]] = [["after_training_on", *run.tasks]]
    for row in run.rows:
        name = row.name if row.trained is None else run.tasks[row.trained]
        rows.append([name, *(cell.score for cell in row.cells)])
    return writing.csv_bytes(rows)


def cells_csv(run: Run) -> bytes:
    """The cells, one line each, with all that is known of them."""
    head = [
        "row",
        "task",
        "scorer",
        "score",
        "low",
        "high",
        "interval_method",
        "n",
        "max_items",
        "dropped",
        "cut",
        "invalid_rate",
    ]
    if any("selected" in cell.extra for row in run.rows for cell in row.cells):
        head.append("selected")
    rows: list[list[object]] = [list(head)]
    limits = run.limits
    for row in run.rows:
        for task, cell in zip(run.tasks, row.cells, strict=True):
            if cell.score is None:
                continue
            low, high = cell.interval or (None, None)
            limit = limits.get(task)
            known = [run.scorers.get(task), cell.score, low, high, cell.interval_method, cell.n, limit]
            known += [cell.dropped, cell.cut]
            rows.append([row.name, task, *known, *(cell.extra.get(key) for key in head[head.index("invalid_rate") :])])
    return writing.csv_bytes(rows)


def probe_files(run: Run) -> dict[str, bytes]:
    """The files about the probes; none without probes."""
    table = probes.probe_table(run)
    if table is None:
        return {}
    caption = (
        f"Probes outside of the stream: scores (0--100) of {text.tex(run.method)} while it learns the stream "
        f"{text.tex(run.stream)}, and differences to the zero-shot scores."
    )
    source = tables.to_tex(table, caption, text.slug(("probes", run.stream, run.method)))
    return {"probes.csv": probes.probes_csv(run), "probes.tex": source.encode("utf-8")}


def matrix_tex(run: Run) -> str:
    """The matrix for LaTeX, with a row for the number of items; scores right after the task's training are bold.

    Of a stream of many tasks it is one line per task, see `long_stream.matrix_tex`.
    """
    if coarse_picture.many(run):
        return long_stream.matrix_tex(run)
    table = content.matrix_table(run, intervals=False)
    fill = tuple(tables.Entry("") for _ in table.head[1 + len(run.tasks) :])
    items = tuple(tables.Entry(str(run.n.get(task, text.MISSING))) for task in run.tasks)
    last = len(table.rows) - 1
    table = tables.Table(
        table.head,
        (*table.rows, (tables.Entry("test items"), *items, *fill)),
        rules=table.rules | {last},
        note=" ".join(note for note in (table.note, scores.unlike_note(run) if fill else "") if note),
        units=table.units,
    )
    bold = " Bold: the task that had just been trained." if run.joint is None else ""
    means = " $A_k$: mean over the tasks seen so far." if table.head[-1] == "A_k" and fill else ""
    caption = f"Scores (0--100) of {text.tex(run.method)} on the stream {text.tex(run.stream)}.{bold}{means}"
    source = tables.to_tex(table, caption, text.slug((run.stream, run.method)))
    return source.replace(r" & A\_k \\", r" & $A_k$ \\", 1) if fill else source


def interval_methods(run: Run) -> str:
    """How the intervals were made, as text."""
    known = {"wilson": "Wilson's score interval", "bootstrap": "a seeded bootstrap over the items"}
    found = sorted({cell.interval_method for row in run.rows for cell in row.cells if cell.interval is not None})
    return text.listing(known.get(name, name or "the run's own method") for name in found)


def _wrapped(words: list[str], width: int) -> list[str]:
    """Words two spaces apart on lines of at most ``width`` columns."""
    lines: list[str] = []
    for word in words:
        if lines and text.columns(lines[-1]) + 3 + text.columns(word) <= width:
            lines[-1] += f"   {word}"
        else:
            lines.append(word)
    return lines
