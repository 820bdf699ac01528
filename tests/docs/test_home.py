"""The site's home repeats README's recipe and matrix, so that a reader of either sees them; they are the same."""

from __future__ import annotations

import re
from pathlib import Path


ROOT = Path(__file__).parents[2]
HOME, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/index.md", "README.md"))


def test_recipe_and_matrix_are_those_of_readme():
    recipes = re.findall(r"^```yaml\n.*?^```", HOME, re.MULTILINE | re.DOTALL)
    assert len(recipes) == 1
    assert recipes[0] in README
    matrix = re.search(r"^\| after training on .*?\n\n", HOME, re.MULTILINE | re.DOTALL)[0]
    assert matrix.count("\n") > 6
    assert matrix in README


def test_every_row_of_the_table_of_pages_is_whole():
    """A row that is broken into two lines is a table no more."""
    table = HOME.partition("| you want to | read |\n")[2]
    rows = [line for line in table.splitlines() if line]
    assert all(line.startswith("| ") and line.endswith(" |") and line.count(" | ") == 1 for line in rows[1:])


def test_pages_install_from_the_clone():
    """The package is not on PyPI. Where it is installed, as for those who read an error message, pip finds its extras."""
    pages = [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("README.md"),
        ROOT / "examples" / "yaml" / "README.md",
    ]
    for page in pages:
        assert not re.search(r"pip install [^`\n]*cl.plugins", page.read_text(encoding="utf-8")), page


def test_every_page_can_be_reached_from_the_home():
    linked = set(re.findall(r"\]\(([\w/]+\.md)", HOME))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"index.md"}
    assert pages <= linked
