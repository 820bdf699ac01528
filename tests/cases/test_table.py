"""Every case of the table in `README.md` is shown by tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
LINES = [
    line.strip("| \n").split(" | ")
    for line in (Path(__file__).parent / "README.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d\d ", line)
]


def test_cases_are_listed_once_and_in_order():
    numbers = [int(line[0]) for line in LINES]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 29
    assert {len(line) for line in LINES} == {4}


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_the_tests_of_a_case_exist(line):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line[3])
    assert named
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
