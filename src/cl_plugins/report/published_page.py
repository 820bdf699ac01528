"""A comparison of runs with a published entry as files (Markdown, LaTeX, CSV, JSON) and for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import tables, text, writing
from .against_published import PublishedComparison
from .tables import Entry, Table


_INSIDE = {True: "yes", False: "no", None: text.MISSING}


def published_table(compared: PublishedComparison, decimals: int = 2) -> Table:
    """Ours, our 95 % interval, theirs, the difference, and whether theirs lies inside the interval."""
    rows = []
    for line in compared.lines:
        difference = line.difference
        sign = "+" if difference is not None and round(difference, decimals) > 0 else ""
        entries = [
            line.place,
            text.number(line.ours, decimals),
            text.interval(line.interval) or text.MISSING,
            text.number(line.theirs, decimals),
            sign + text.number(difference, decimals),
            _INSIDE[line.inside],
        ]
        rows.append(tuple(Entry(entry) for entry in entries))
    cut = sum("from the cells" not in line.place and "printed" not in line.place for line in compared.lines)
    rules = frozenset({cut - 1}) if 0 < cut < len(rows) else frozenset()
    return Table(("", "ours", "95 % interval", "theirs", "difference", "inside"), tuple(rows), rules=rules)


def title(compared: PublishedComparison) -> str:
    """The heading of the table."""
    count = f"{compared.runs} run{'s' if compared.runs > 1 else ''}"
    return f"{compared.label} ({count}) compared with {compared.entry.label}, {compared.source.key}: {compared.table.title}"


def interval_note(compared: PublishedComparison) -> str:
    """What our interval covers."""
    one = "over the test items of our one run; metrics have none"
    over = "over our runs (Student's t), where they differ" if compared.runs > 1 else one
    return f"The interval is {over}. Inside: the published number lies in our interval."


def write_published(
    found: Sequence[PublishedComparison], directory: Path, write: writing.Write | None = None
) -> list[Path]:
    """Write ``published.md``, ``.tex``, ``.csv`` and ``.json``.

    Args:
        found: What `compare_with_published` gave.
        directory: Where they go.
        write: Called with path and bytes; by default each file is replaced in one step.
    """
    pages, sources = [], []
    head = ("label", "with", "table", "place", "ours", "low", "high", "theirs", "inside", "remarks")
    rows: list[tuple[str, ...]] = [head]
    for compared in found:
        reference = f"{compared.source.key}/{compared.entry.key}"
        pages.append(_page(compared))
        label = text.slug((compared.label, reference, compared.table.key))
        caption = text.tex(f"{title(compared)}. {interval_note(compared)}")
        sources.append(tables.to_tex(published_table(compared), caption, label, compared.remarks))
        for line in compared.lines:
            low, high = line.interval or ("", "")
            inside = "" if line.inside is None else str(line.inside).lower()
            values = (line.place, line.ours, low, high, line.theirs, inside, " ".join(compared.remarks))
            rows.append((compared.label, reference, compared.table.key, *map(str, values)))
    files = {
        "published.md": ("\n\n".join(pages) + "\n").encode("utf-8"),
        "published.tex": "\n".join(sources).encode("utf-8"),
        "published.csv": writing.csv_bytes(rows),
        "published.json": (json.dumps(as_json(found), indent=1, ensure_ascii=False) + "\n").encode("utf-8"),
    }
    return writing.write_all(directory, files, write)


def _page(compared: PublishedComparison) -> str:
    """One comparison in Markdown."""
    definitions = Table(
        ("", "ours", "theirs"), tuple(tuple(Entry(word) for word in row) for row in compared.definitions), left=3
    )
    reference = compared.source.reference
    parts = [
        f"## {text.markdown(title(compared))}",
        f"{text.markdown(compared.source.title)}{'. ' + text.markdown(reference) if reference else ''}.",
        tables.to_markdown(published_table(compared)),
        interval_note(compared),
        "What each side measures:",
        tables.to_markdown(definitions),
        "\n".join(f"- {text.prose(remark)}" for remark in compared.remarks),
    ]
    return "\n\n".join(parts)


def as_json(compared: Sequence[PublishedComparison]) -> dict[str, Any]:
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
            for b in compared
        ],
    }
