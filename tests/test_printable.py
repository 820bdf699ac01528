"""Text that comes from files is shown, and never obeyed, by a terminal."""

from __future__ import annotations

import io
import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import Problem, RecipeError
from cl_plugins.base.logs import _Formatter
from cl_plugins.base.printable import printable, printable_json
from cl_plugins.cli import output
from cl_plugins.report.tables import Entry, Table, to_terminal


EVIL = "a\x1b]0;title\x07b\x9b31mc\rd\u202ee\x7f\x08\udc80"
SHOWN = r"a\x1b]0;title\x07b\x9b31mc\x0dd\u202ee\x7f\x08\udc80"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_control_characters_become_escapes():
    assert printable(EVIL) == SHOWN
    assert printable("plain\ttext\nof two lines, 細胞 ± é") == "plain\ttext\nof two lines, 細胞 ± é"


@given(st.text(st.characters(codec=None)))
def test_nothing_that_acts_is_left(text):
    found = printable(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") or char in "\t\n" for char in found)
    assert printable(found) == found


@given(st.recursive(st.text(st.characters(codec=None)), lambda inner: st.dictionaries(st.text(), inner)))
def test_json_keeps_its_value(value):
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert printable(text) == text


def test_problems_and_errors_are_safe():
    problem = Problem(f"cl.stream.tasks[0].{EVIL}", f"is {EVIL}.", f"Rename {EVIL}.")
    for text in (problem.where, problem.what, problem.fix, str(problem), str(RecipeError([problem, problem]))):
        assert printable(text) == text
    assert str(RecipeError(EVIL)) == SHOWN
    assert Problem("a", f"is {EVIL}.", "") == Problem("a", f"is {SHOWN}.", "")


def test_the_log_is_safe():
    record = logging.makeLogRecord({"msg": "task %s", "args": (EVIL,)})
    assert _Formatter("%(message)s").format(record) == f"task {SHOWN}"


@pytest.mark.parametrize("colour", [False, True])
def test_tables_are_safe(colour):
    shown = to_terminal(Table((EVIL, EVIL), ((Entry(EVIL), Entry(EVIL, strong=True)),), note=EVIL), 400, colour)
    assert not any(char in shown for char in "\x07\x9b\r\u202e\x7f\x08")
    assert "\x1b]" not in shown
    assert r"\x1b]0;" in shown


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_command_line_is_safe(kind, monkeypatch):
    stream = kind()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.emit(EVIL)
    output.emit(output.bold(EVIL) + EVIL)
    output.heading(EVIL, EVIL)
    output.pairs([(EVIL, EVIL)])
    output.columns((EVIL, EVIL), [(EVIL, EVIL)])
    output.numbers(Table((EVIL, EVIL), ((Entry(EVIL), Entry(EVIL)),)))
    output.show_problems([Problem(EVIL, EVIL, EVIL)], stream)
    output.show_error(EVIL, RecipeError(EVIL))
    output.print_json({EVIL: EVIL})
    written = stream.getvalue()
    assert not any(char in written for char in "\x07\x9b\r\u202e\x7f\x08")
    assert "\x1b]" not in written
    assert ("\x1b[1m" in written) == (kind is Terminal)
    assert written.count("title") >= 16


def test_without_a_terminal_there_are_no_styles(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    output.emit(output.bold("title") + " more")
    output.heading("title")
    output.columns(("a", "b"), [("1", "2")])
    assert "\x1b" not in stream.getvalue()
