"""Errors for people end a command of the host with their message; other errors, and scripts, keep the traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cl_plugins.base.excepthook import VARIABLE


SCRIPT = """
from cl_plugins.base.errors import Problem, RecipeError
from cl_plugins.base.excepthook import brief_errors

brief_errors()
brief_errors()
raise {error}
"""
OURS = "RecipeError([Problem('cl.a', 'is 1.', 'Use 2.'), Problem('cl.b', 'is 3.', 'Use 4.')])"


@pytest.fixture
def ended(tmp_path):
    """Run a program of this name that ends with an error; gives its exit code and what it printed."""

    def run(name, error, **more):
        script = tmp_path / name
        script.write_text(SCRIPT.format(error=error))
        env = {key: value for key, value in os.environ.items() if key != VARIABLE} | more
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env)
        assert done.stdout == ""
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize("name", ["llamafactory-cli", "lmf", "launcher.py"])
def test_a_command_ends_with_all_problems_and_no_traceback(ended, name):
    code, said = ended(name, OURS)
    assert code == 1
    assert said.splitlines() == [
        "",
        "cl_plugins: The recipe has problems:",
        "  - cl.a: is 1. Use 2.",
        "  - cl.b: is 3. Use 4.",
        f"({VARIABLE}=1 shows the traceback.)",
    ]


@pytest.mark.parametrize(
    ("name", "error", "more"),
    [
        ("train.py", OURS, {}),
        ("llamafactory-cli", "KeyError('x')", {}),
        ("llamafactory-cli", OURS, {VARIABLE: "1"}),
    ],
)
def test_everything_else_keeps_its_traceback(ended, name, error, more):
    code, said = ended(name, error, **more)
    assert code == 1
    assert "Traceback (most recent call last)" in said
