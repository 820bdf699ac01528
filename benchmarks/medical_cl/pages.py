"""The benchmark's tables as Markdown and LaTeX, and the page that holds them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_plugins.report import tables, text
from cl_plugins.report.tables import Entry as Text
from cl_plugins.report.tables import Table
from cl_plugins.report.writing import write_atomically
from cl_plugins.sweep.ledger import Entry


@dataclass(frozen=True)
class Titled:
    """A table with what stands above it."""

    title: str
    table: Table


def write_tables(made: Mapping[str, Titled], folder: Path) -> list[Path]:
    """Write each table as ``NAME.md`` and ``NAME.tex``."""
    written = []
    for name, titled in made.items():
        page = f"**{text.markdown(titled.title)}**\n\n{tables.to_markdown(titled.table)}\n"
        written += [_put(folder / f"{name}.md", page), _put(folder / f"{name}.tex", to_tex(titled, name))]
    return written


def to_tex(titled: Titled, name: str) -> str:
    """LaTeX with booktabs; columns that begin with ``Last`` and ``Average`` are put under a common head, as in the paper."""
    source = tables.to_tex(titled.table, text.tex(f"{titled.title}."), f"medical-cl-{name}")
    head = titled.table.head
    groups = [group for group in ("Last", "Average") if any(name.startswith(f"{group} ") for name in head)]
    if len(groups) < 2:
        return source
    plain = " & ".join(text.tex(name) for name in head) + r" \\"
    above, rules, short, place = [""], [], [text.tex(head[0])], 2
    for group in groups:
        names = [name.removeprefix(f"{group} ") for name in head if name.startswith(f"{group} ")]
        above.append(f"\\multicolumn{{{len(names)}}}{{c}}{{{group}}}")
        rules.append(f"\\cmidrule(lr){{{place}-{place + len(names) - 1}}}")
        short += [text.tex(name) for name in names]
        place += len(names)
    return source.replace(
        plain, " & ".join(above) + r" \\" + "\n" + " ".join(rules) + "\n" + " & ".join(short) + r" \\"
    )


def write_readme(
    entries: Sequence[Entry],
    labels: Sequence[str],
    sections: Sequence[tuple[str, Mapping[str, Titled]]],
    out: Path,
    scale: str,
) -> Path:
    """Write the page with all tables and pictures, and what every cell cost.

    Args:
        entries: The ledger.
        labels: A name per entry.
        sections: Folder name and tables, for each kind of rules.
        out: Folder of the page.
        scale: ``full`` or ``tiny``.
    """
    words = {
        "paper_rules": "By the paper's rules",
        "own_rules": "By the strict scorers of this package",
    }
    lines = [
        f"# Medical-CL benchmark, scale {scale}",
        "Made by `make bench-medical-cl-tables` from the ledger; do not edit.",
    ]
    if scale == "tiny":
        lines.append(
            "> Drawn pictures, a model of 1.5 million parameters, a few optimizer steps: these numbers show that every "
            "part of the benchmark works, and nothing about the methods."
        )
    lines += [f"> {remark}" for remark in _remarks(entries, labels)]
    lines.append("Means; ± is half the 95 % t-interval over seeds, where there are several. An en dash: not measured.")
    for folder, made in sections:
        entry = next(e for e in entries if e.scores("peer" if folder == "paper_rules" else "own") is not None)
        scorers = (entry.scores("peer" if folder == "paper_rules" else "own") or {})["matrix"]["scorers"]
        lines += [f"## {words[folder]}", "Scorers: " + ", ".join(f"{t} `{s}`" for t, s in scorers.items()) + "."]
        if any("avg, as printed" in titled.table.head for titled in made.values()):
            lines.append(
                "*avg, as printed*: BLEU is cut to a whole number before the mean, as the authors' evaluator does."
            )
        for titled in made.values():
            lines += [f"### {text.markdown(titled.title)}", tables.to_markdown(titled.table)]
        lines += [
            f"![Scores on every task after every task]({folder}/curves.png)",
            f"![Metrics of every method]({folder}/compare.png)",
            f"All metrics with their intervals: [{folder}/compare.md]({folder}/compare.md).",
        ]
    lines += ["## What the cells cost", tables.to_markdown(cost_table(entries, labels))]
    return _put(out / "README.md", "\n\n".join(lines) + "\n")


def cost_table(entries: Sequence[Entry], labels: Sequence[str]) -> Table:
    """Seconds, peak memory and what a task adds, for each cell."""
    rows = []
    for entry, label in zip(entries, labels, strict=True):
        run, cell = entry.content["run"], entry.content["cell"]
        seconds = entry.content["step_seconds"]
        train = sum(value for step, value in seconds.items() if step.startswith("train"))
        test = sum(value for step, value in seconds.items() if step.startswith("evaluate"))
        added = entry.content["update_bytes"].values()
        hardware = run.get("hardware") or {}
        gpus = hardware.get("gpus")
        device = f"{len(gpus)} x {gpus[0]}" if gpus else f"{hardware.get('cpus', '?')} CPU cores"
        cells = [label, str(cell["seed"]), str(cell["order_name"]), device, text.duration(train), text.duration(test)]
        cells.append(text.size(run["peak_memory_bytes"]) if run.get("peak_memory_bytes") else text.MISSING)
        cells.append(text.size(max(added)) if added else text.MISSING)
        cells.append(str((run.get("versions") or {}).get("llamafactory", "?")))
        rows.append(tuple(Text(value) for value in cells))
    head = ("recipe", "seed", "order", "on", "training", "testing", "peak memory", "largest update", "llamafactory")
    return Table(head, tuple(rows), left=4)


def _remarks(entries: Sequence[Entry], labels: Sequence[str]) -> list[str]:
    """What keeps cells from standing in one table."""
    found = []
    for name, values in (
        ("base models", {str((e.content["run"].get("base") or {}).get("sha256")) for e in entries}),
        ("data", {_data(e.content) for e in entries}),
    ):
        if len(values) > 1:
            found.append(f"The cells used {len(values)} different {name}; their numbers do not belong side by side.")
    changed = sorted({entry.recipe for entry, label in zip(entries, labels, strict=True) if label != entry.recipe})
    if changed:
        found.append(f"Several versions of {text.listing(changed)} are in the ledger; their hashes tell them apart.")
    return found


def _data(content: Mapping[str, Any]) -> str:
    """The hashes of the data of a run, in any order."""
    return str(sorted((str(k), str(v)) for k, v in (content["run"].get("data") or {}).items()))


def _put(path: Path, content: str) -> Path:
    write_atomically(path, content.encode("utf-8"))
    return path
