"""The tables of docs/real.md are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "real" / "results"
PAGE = (ROOT / "docs" / "real.md").read_text(encoding="utf-8")


def tables() -> list[str]:
    """Names of the benchmarks with committed results."""
    return sorted(path.parent.name for path in RESULTS.glob("*/compare.md"))


@pytest.mark.parametrize("name", tables())
def test_the_page_shows_the_whole_tables_of_methods_and_of_differences(name: str) -> None:
    text = (RESULTS / name / "compare.md").read_text(encoding="utf-8")
    for head in ("## Methods", "## Differences"):
        part = text.partition(head)[2].partition("\n## ")[0]
        rows = [line for line in part.splitlines() if line.startswith("|")]
        assert len(rows) > 2 or head not in text
        assert [row for row in rows if row not in PAGE] == []


@pytest.mark.parametrize("name", tables())
def test_the_page_states_the_sizes_that_the_results_were_made_with(name: str) -> None:
    facts = json.loads((RESULTS / name / "facts.json").read_text(encoding="utf-8"))
    for key, unit in (("train", "training samples"), ("test", "test items"), ("words", "words")):
        if key in facts:
            assert f"{facts[key]} {unit}" in PAGE


def test_the_page_shows_the_matrix_of_the_run() -> None:
    matrix = json.loads((RESULTS / "text" / "matrices" / "seqlora_seed0.json").read_text(encoding="utf-8"))
    for task, row in zip(matrix["tasks"], matrix["scores"], strict=True):
        cells = " | ".join("" if value is None else f"{value:.1f}" for value in row)
        assert f"| {task} | {cells} |" in PAGE
