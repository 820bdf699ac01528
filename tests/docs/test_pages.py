"""The pages are sorted by what a reader does with them: jobs are short and begin with their command; lists come from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cl_plugins.cli import COMMANDS, build_parser
from cl_plugins.cli.docs import commands_page, scorers_table


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAV = {
    title: inside
    for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    for title, inside in entry.items()
}


def pages(value):
    if isinstance(value, str):
        return [value]
    return [page for each in (value if isinstance(value, list) else value.values()) for page in pages(each)]


def words(name):
    return len((DOCS / name).read_text(encoding="utf-8").split())


JOBS = pages([NAV["Start"], NAV["Use"]])


@pytest.mark.parametrize("name", JOBS)
def test_a_job_can_be_read_in_one_go(name):
    assert words(name) <= 1200


def test_all_jobs_together_can_be_read_in_an_hour():
    assert sum(map(words, JOBS)) <= 15_000


@pytest.mark.parametrize("name", pages(NAV["Use"]))
def test_a_job_begins_with_what_one_types(name):
    """A command, a recipe or code stands before the first heading below the title, behind at most fifty words."""
    start = (DOCS / name).read_text(encoding="utf-8").partition("\n## ")[0]
    before, fence, _ = start.partition("\n```")
    assert fence
    assert len(before.split()) <= 50


def test_the_page_of_the_command_line_is_the_generated_one():
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == commands_page(), "run: cl-plugins docs cli > docs/cli.md"


def test_every_command_and_argument_is_on_it():
    page = commands_page()
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert headings == list(COMMANDS)
    sections = dict(zip(headings, re.split(r"^## .*$", page, flags=re.MULTILINE)[1:], strict=True))
    for name, section in sections.items():
        usage = build_parser(name)._subparsers._group_actions[0].choices[name].format_help()
        options = set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE)) - {"--debug", "--json"}
        assert options <= set(re.findall(r"`(--[a-z-]+)", section)), name
    assert "### carry pack" in sections["carry"]
    assert "`--with-replay`" in sections["carry"]


def test_a_parser_becomes_a_table(monkeypatch):
    from cl_plugins.cli import command_page, sweep

    def configure(parser):
        parser.add_argument("--mode", choices=("a", "b"), required=True, help="which <one>")
        parser.epilog = "Some words.\n\n  cl-plugins sweep --mode a\n\nA drawing:\n  not a command\n"

    monkeypatch.setattr(sweep, "configure", configure)
    section = command_page.commands_page().partition("\n## sweep\n")[2].partition("\n## ")[0]
    assert "| `--mode {a, b}` | which &lt;one>; required |" in section
    assert "```\ncl-plugins sweep --mode a\n```" in section
    assert "Some words" not in section  # the job's page has them
    monkeypatch.setattr(command_page, "_READ_ON", {})
    section = command_page.commands_page().partition("\n## sweep\n")[2].partition("\n## ")[0]
    assert "\nSome words.\n" in section
    assert "```\nA drawing:\n  not a command\n```" in section


def test_the_table_of_scorers_is_the_generated_one():
    shown = (
        (DOCS / "scorers.md").read_text(encoding="utf-8").split("<!-- scorers -->\n")[1].split("<!-- /scorers -->")[0]
    )
    assert shown == scorers_table(), "paste the output of `cl-plugins docs scorers`"


def test_every_scorer_says_what_it_reports():
    from cl_plugins.evaluation.scorers import list_scorers

    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in scorers_table().splitlines()[2:]]
    assert [row[0].strip(" `").partition("@")[0] for row in rows] == list_scorers()
    assert all(row[1] and row[2] for row in rows)
