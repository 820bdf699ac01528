"""A newcomer gets from installation to the table with one benchmark's page alone."""

from __future__ import annotations

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PAGES = {
    "medical_cl": "medical_cl",
    "mllm_cl": "mllm_cl",
    "mllm_cl_ability": "mllm_cl",
    "mslora_cr_8": "mslora_cr",
    "mslora_cr_6": "mslora_cr",
    "coin": "coin",
    "ucit": "ucit",
    "standard_cl": "standard_cl",
    "trace": "trace",
}


def page(stream: str) -> str:
    return (ROOT / "docs" / "benchmarks" / f"{PAGES[stream]}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stream", PAGES)
def test_every_recipe_stands_on_its_page(stream: str) -> None:
    recipes = sorted((ROOT / "examples" / "yaml" / stream).glob("*.yaml"))
    assert recipes
    missing = [recipe.name for recipe in recipes if recipe.name not in page(stream)]
    assert missing == []


@pytest.mark.parametrize("stream", PAGES)
def test_a_page_leads_from_installation_to_the_table(stream: str) -> None:
    text = page(stream)
    steps = [
        "pip install",
        "cl-plugins data prepare",
        "llamafactory-cli train",
        "Your table",
        "cl-plugins report saves/",
    ]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert f"cl-plugins data prepare {stream}" in text or stream == "mslora_cr_6"


def test_no_benchmark_without_a_page() -> None:
    folders = {path.name for path in (ROOT / "examples" / "yaml").iterdir() if path.is_dir()}
    assert folders - {"demo", "probes", "cross_modal"} == set(PAGES)  # made-up data
