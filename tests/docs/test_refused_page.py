"""The page `docs/refused.md` is the generated one: every example on it is refused before the base loads, as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl_plugins.cli.refused import group_section, keys_section
from cl_plugins.cli.refused_examples import GROUPS, RECIPES, Example
from cl_plugins.host import keys


PAGE = (Path(__file__).parents[2] / "docs" / "refused.md").read_text(encoding="utf-8")
HINT = "run: cl-plugins docs refused > docs/refused.md"


def test_every_refused_key_is_on_the_page():
    assert keys_section() in PAGE, HINT
    names = [key for group in keys.refused_keys().values() for key in group]
    assert len(names) == len(set(names)) > 50
    assert {key for key in names if keys.kind_of(key).kind != "refused"} == set()
    assert all(keys.check({"stage": "sft", "do_train": True, key: "something"}) for key in names if key != "do_sample")


@pytest.mark.parametrize("title", GROUPS)
def test_every_example_is_refused_as_the_page_says(title):
    assert group_section(title) in PAGE, HINT


def test_the_page_has_nothing_else():
    headings = [line.removeprefix("## ") for line in PAGE.splitlines() if line.startswith("## ")]
    assert headings == ["Keys of LLaMA-Factory", "Values", *GROUPS]


def test_an_example_that_is_not_refused_is_an_error(monkeypatch):
    from cl_plugins.cli import refused_examples

    monkeypatch.setattr(refused_examples, "GROUPS", {"Plain": (*RECIPES[:1], Example("a plain recipe"))})
    with pytest.raises(RuntimeError, match="not refused: a plain recipe"):
        group_section("Plain")
