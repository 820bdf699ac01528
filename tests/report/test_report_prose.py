"""What notes and remarks have between back-ticks is code in pages and in Markdown."""

from __future__ import annotations

import dataclasses

import pytest
from report.made_runs import demo_run

from cl_plugins.report import run_report, text
from cl_plugins.report.run_data import read_run
from cl_plugins.report.run_report import write_report


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("a `b` c", [("a ", False), ("b", True), (" c", False)]),
        ("`a` and `b c`", [("a", True), (" and ", False), ("b c", True)]),
        ("no code", [("no code", False)]),
        ("one ` alone", [("one ` alone", False)]),
        ("``a`` and ` b `", [("``a`` and ` b `", False)]),
        ("", [("", False)]),
    ],
)
def test_parts_of_a_sentence(sentence, parts):
    assert list(text.spans(sentence)) == parts


@pytest.mark.parametrize(
    ("sentence", "markdown", "bold"),
    [
        ("set `a_b` to *x*", "set `a_b` to \\*x\\*", "**set `a_b` to \\*x\\***"),
        ("# `a|b`", "\\# `a|b`", "**# `a|b`**"),
        ("<b> ` \\", "\\<b\\> \\` \\\\", "**\\<b\\> \\` \\\\**"),
        (" ", " ", ""),
    ],
)
def test_in_markdown_the_rest_is_escaped(sentence, markdown, bold):
    assert text.prose(sentence) == markdown
    assert text.strong_prose(sentence) == bold


def test_notes_and_remarks_of_a_report(tmp_path, monkeypatch):
    run = read_run(demo_run(tmp_path / "run", seed=1))
    note, remark = "choose with `cl.method.name` <now>", "`peer_scorer` is __not__ used"
    run = dataclasses.replace(run, info={**run.info, "notes": [note]}, remarks=(remark,))
    monkeypatch.setattr(run_report, "read_run", lambda path: run)
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<p><strong>choose with <code>cl.method.name</code> &lt;now&gt;</strong></p>" in page
    assert "<p><code>peer_scorer</code> is __not__ used</p>" in page
    markdown = (tmp_path / "run" / "report.md").read_text()
    assert "> **choose with `cl.method.name` \\<now\\>**" in markdown
    assert "> `peer_scorer` is \\_\\_not\\_\\_ used" in markdown


def test_notes_of_a_table():
    from cl_plugins.report.tables import Entry, Table, to_markdown

    table = Table(("a", "b"), ((Entry("x"), Entry("1")),), note="limited by `cl.eval.max_items`")
    assert to_markdown(table).endswith("\n\nlimited by `cl.eval.max_items`")
