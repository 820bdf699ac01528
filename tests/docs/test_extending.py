"""The methods that docs/extending.md shows train two tasks; the routed one is that of the third-party package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from running import NO_TESTS, go, recipe

from cl_plugins.contract.method import Method
from cl_plugins.methods.registry import METHODS


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = [
    block
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    if "(OneLoRA)" in block or "(SeqLoRA)" in block
]
TERMS = {"small_steps": "size_of_b", "confident": "negative_entropy", "stay_close": "norms", "rehearse": "rehearsal"}


def method_of(block):
    """The class that a block defines."""
    names: dict = {"__name__": "page"}
    exec(compile(block, "docs/extending.md", "exec", dont_inherit=True), names)
    (found,) = [v for v in names.values() if isinstance(v, type) and issubclass(v, Method) and v.__module__ == "page"]
    return found


def test_the_page_shows_one_of_each():
    assert [method_of(block).name for block in BLOCKS] == [*TERMS, "lab_moe"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.search(r'name = "(\w+)"', block).group(1))
def test_it_trains(block, llama, text_data, tmp_path, monkeypatch):
    method = method_of(block)
    monkeypatch.setitem(METHODS.own, method.name, method)
    replay = {"replay": {"capacity_per_task": 4}} if method.capabilities.needs_replay else {}
    go(recipe(llama, text_data, tmp_path / "run", method.name, cl={**NO_TESTS, **replay}, logging_steps=1))
    history = json.loads((tmp_path / "run" / "tasks" / "02_two" / "trainer_state.json").read_text())["log_history"]
    logged = {key.removeprefix("penalty/") for entry in history for key in entry if key.startswith("penalty/")}
    assert logged == ({TERMS[method.name]} if method.name in TERMS else set())


def test_the_routed_method_is_the_one_of_the_package():
    source = (ROOT / "tests" / "third_party_methods" / "lab_methods" / "moe.py").read_text(encoding="utf-8")
    assert BLOCKS[-1].strip() == source[source.index("from dataclasses") :].strip()
